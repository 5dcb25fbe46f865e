"""The GPU's memory: how much is free, how much of a batch fits into it, and what is done when it did not."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

MB = 1024**2
# Of what is free when it is asked: several analyzers, each with several threads, share one card.
_SHARE = 4
_LEAST_ARENA_MB = 512

# What the libraries say, all as plain RuntimeErrors, when an allocation on the GPU fails: onnxruntime's arena and
# its libraries, CTranslate2, torch.
_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "alloc_failed", "available memory of")
_FAILURE = re.compile(r"(CUDA|CUDNN|CUBLAS|CUFFT) failure[^;]*|Failed to allocate memory.*|Available memory of.*")
_GPU_FAILURE = ("cuda", "cudnn", "cublas", "cufft", "nvrtc", "device-side assert")


@dataclass(frozen=True, slots=True)
class Card:
    """The first GPU as the driver knows it."""

    name: str
    free_mb: int
    total_mb: int


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def card() -> Card | None:
    """Asked of NVML, which comes with the driver and, unlike CUDA, takes no memory itself; None: there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return _card(nvml)


def _card(nvml: Any) -> Card | None:
    handle, memory, name = ctypes.c_void_p(), _Memory(), ctypes.create_string_buffer(96)
    failed = (
        nvml.nvmlInit_v2()
        or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        or nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name)))
        or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    )
    if failed:
        return None
    return Card(name.value.decode(errors="replace"), memory.free // MB, memory.total // MB)


def batch_size(least: int, most: int, item_mb: float) -> int:
    """How many items of a batch the GPU has room for now, within these bounds; `least` where that is not known.

    Args:
        item_mb: what one item takes while it is computed, weights not counted
    """
    found = card()
    if found is None:
        return least
    return max(least, min(most, int(found.free_mb / _SHARE / item_mb)))


def arena_bytes() -> int | None:
    """The most that one session may keep for itself; None: no limit, because nothing is known of the card."""
    found = card()
    return max(_LEAST_ARENA_MB, found.free_mb // _SHARE) * MB if found else None


class _Batch(Protocol):
    """An array or a tensor: its first axis is the items."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


B = TypeVar("B", bound=_Batch)


def halving(batch: B, run: Callable[[B], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """`run(batch)`; where the GPU has no room for it, the same in halves, down to single items.

    The items are the same numbers as before, padding included, so that the result is the same too.
    """
    try:
        return run(batch)
    except Exception as error:  # each library has a type of its own, most of them RuntimeError
        if len(batch) < 2 or not is_out_of_memory(error):
            raise
    # Out of the handler: the exception holds on to what the failed call had allocated.
    _release_cached()
    middle = len(batch) // 2
    return np.concatenate([halving(batch[:middle], run), halving(batch[middle:], run)])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that the GPU's memory did not suffice. Python's own MemoryError is not meant."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported to ask
        return True
    text = str(error).lower()
    return not isinstance(error, MemoryError) and any(words in text for words in _OUT_OF_MEMORY)


def is_gpu_failure(error: BaseException) -> bool:
    """Whether it is the GPU or its libraries that failed, and so not the medium at hand."""
    text = f"{type(error).__name__} {error}".lower()
    return is_out_of_memory(error) or any(words in text for words in _GPU_FAILURE)


def in_brief(error: BaseException) -> str:
    """What a library says went wrong on the GPU, in one line: onnxruntime says it behind pages of C++."""
    text = " ".join(str(error).split())
    found = _FAILURE.search(text)
    return f"{type(error).__name__}: {(found[0].strip() if found else text)[:300]}"


def _release_cached() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
