"""Tensors out of a file of torch.save, read without torch, which takes 2.5 s and 217 MB to import.

Only the format from before torch 1.6 (five pickles, then the bytes of each storage), and only names that build
tensors: whatever else a pickle asks for is refused, as `torch.load(weights_only=True)` does.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8", "IntStorage": "<i4"}


@dataclass(slots=True)
class _Storage:
    dtype: str
    values: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage: offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: Sequence[int]
    strides: Sequence[int]

    def array(self) -> npt.NDArray[Any]:
        values = self.storage.values[self.offset :]
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min(self.shape, default=1) < 1 or min(self.strides, default=0) < 0 or last >= len(values):
            raise ValueError("a tensor is larger than its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, self.shape, strides))


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return self.storages.setdefault(str(key), _Storage(dtype))


def read_tensors(file: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """The tensors of the dictionary stored under ``name`` in the file's outermost dictionary.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with file.open("rb") as stream:
            return {key: tensor.array() for key, tensor in _read(stream)[name].items()}
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{file.name} holds no tensors that can be read: {error}") from None


def _read(stream: BinaryIO) -> Any:
    if _Unpickler(stream).load() != _MAGIC:
        raise pickle.UnpicklingError("it does not begin like a file of torch.save")
    for _ in ("protocol version", "properties of the machine that wrote it"):
        _Unpickler(stream).load()
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        count = int.from_bytes(stream.read(8), "little")
        size = count * np.dtype(storage.dtype).itemsize
        data = stream.read(size)
        if len(data) < size:
            raise EOFError("it was cut off")
        storage.values = np.frombuffer(data, storage.dtype)
    return content
