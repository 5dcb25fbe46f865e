"""Batches by the memory of the GPU, and what comes out whatever their size."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from media_pipeline.analyzers import _gpu_memory, _ocr_onnx
from media_pipeline.analyzers._gpu_memory import (
    Card,
    arena_bytes,
    batch_size,
    halving,
    in_brief,
    is_gpu_failure,
    is_out_of_memory,
)

MIB = 1024**2
Floats = npt.NDArray[np.float32]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


# --- the card ---------------------------------------------------------------------------------------------------------


class Nvml:
    """The four functions of NVIDIA's library that are called, for a card with 10 GiB of which 7.5 are free."""

    def __init__(self, broken: str = "") -> None:
        self._broken = broken

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "nvmlDeviceGetName":
                arguments[1].value = b"NVIDIA GeForce RTX 3080"
            if name == "nvmlDeviceGetMemoryInfo":
                memory = arguments[1]._obj
                memory.total, memory.free, memory.used = 10240 * MIB, 7680 * MIB, 2560 * MIB
            return 9 if name == self._broken else 0

        return call


def test_the_card_as_the_driver_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Nvml())
    assert _gpu_memory.card() == Card("NVIDIA GeForce RTX 3080", free_mb=7680, total_mb=10240)


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_does_not_answer_is_no_card(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Nvml(broken=function))
    assert _gpu_memory.card() is None


def test_no_driver_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert _gpu_memory.card() is None
    assert (batch_size(8, 128, 64), arena_bytes()) == (8, None)


@pytest.mark.parametrize(("free_mb", "size"), [(100, 8), (6_000, 23), (20_000, 78), (140_000, 128)])
def test_batches_grow_with_what_is_free(free_mb: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_memory, "card", lambda: Card("any", free_mb, 140_000))
    assert batch_size(8, 128, 64) == size
    assert arena_bytes() == max(512, free_mb // 4) * MIB


# --- when it did not suffice ------------------------------------------------------------------------------------------


def room_for(
    items: int, sizes: list[int], message: str = "CUDA failure 2: out of memory"
) -> Callable[[Floats], Floats]:
    """Doubles what it gets, if that is no more than so many items."""

    def run(batch: Floats) -> Floats:
        sizes.append(len(batch))
        if len(batch) > items:
            raise RuntimeError(message)
        return batch * 2

    return run


@pytest.mark.parametrize("items", [1, 2, 3, 5, 100])
def test_a_batch_without_room_is_halved(items: int) -> None:
    batch = np.arange(22, dtype=np.float32).reshape(11, 2)
    sizes: list[int] = []
    assert np.array_equal(halving(batch, room_for(items, sizes)), batch * 2)
    assert sum(size for size in sizes if size <= items) == 11  # nothing was computed twice


def test_what_is_no_lack_of_memory_is_not_tried_again() -> None:
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match="illegal memory access"):
        halving(np.zeros((8, 1), np.float32), room_for(4, sizes, "CUDA error: an illegal memory access"))
    assert sizes == [8]


def test_a_single_item_without_room_fails() -> None:
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        halving(np.zeros((4, 1), np.float32), room_for(0, sizes))
    assert sizes == [4, 2, 1]


@pytest.mark.parametrize(
    ("error", "memory", "gpu"),
    [
        (OutOfMemoryError("Tried to allocate 2.00 GiB"), True, True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 1310720000"), True, True),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; file=cuda_allocator.cc"), True, True),
        (RuntimeError("CUDA failed with error out of memory"), True, True),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"), True, True),
        (RuntimeError("CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (MemoryError(), False, False),
        (ValueError("the picture has no pixels"), False, False),
        (RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input"), False, False),
    ],
)
def test_whose_fault_it_is(error: Exception, memory: bool, gpu: bool) -> None:
    assert (is_out_of_memory(error), is_gpu_failure(error)) == (memory, gpu)


def test_the_cause_is_found_behind_pages_of_cpp() -> None:
    said = RuntimeError(
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, "
        "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*)\n"
        "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=h ; expr=cudaSetDevice(0); "
    )
    assert in_brief(said) == "RuntimeError: CUDA failure 100: no CUDA-capable device is detected"
    assert in_brief(ValueError("no\nsuch file")) == "ValueError: no such file"
    assert len(in_brief(ValueError("x" * 1000))) < 330


# --- results do not depend on the size of a batch ---------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_in_batches_of_any_size_give_the_same_vectors() -> None:
    from media_pipeline_tests._clip import picture, shared_clip

    _, clip = shared_clip()
    pictures = [picture(seed) for seed in range(9)]
    alone = clip.encode_images(pictures, batch=1)
    for batch in (2, 8, 128):
        assert np.allclose(clip.encode_images(pictures, batch=batch), alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_media_together_give_the_rows_of_media_alone() -> None:
    from media_pipeline.analyzers._spec import Medium
    from media_pipeline.analyzers.image_embeddings import ANALYZER, ImageEmbeddingsOptions
    from media_pipeline_tests._clip import frames, picture, shared_clip

    _, clip = shared_clip()
    thin, same = picture(1, height=4), picture(2)
    pictures = {"a": [picture(0)], "b": [], "c": [same, same, thin, picture(3)], "d": [thin], "e": [same]}
    media = tuple(Medium(name, "video", frames=frames(shown)) for name, shown in pictures.items())
    options = ImageEmbeddingsOptions()
    together = ANALYZER.run(clip, media, options)
    alone = pa.concat_tables([ANALYZER.run(clip, (medium,), options) for medium in media])

    assert together.num_rows == 5
    assert together.drop_columns(["embedding"]).equals(alone.drop_columns(["embedding"]))
    vectors = [np.stack(table["embedding"].to_numpy(zero_copy_only=False)) for table in (together, alone)]
    assert np.allclose(*vectors, rtol=0, atol=1e-5)


def test_voices_in_batches_of_any_size_give_the_same_vectors(tmp_path: Path) -> None:
    from media_pipeline.analyzers._voice_xvector import XVector
    from media_pipeline_tests._voices import write_x_vector

    encoder = XVector(write_x_vector(tmp_path / "x.onnx"))
    random = np.random.default_rng(0)
    windows = [random.standard_normal((160 - 40 * (n % 2), 80)).astype(np.float32) for n in range(21)]
    found = []
    for size in (1, 16, 128):
        encoder._batch = size
        found.append(encoder.embed(windows))
    assert np.allclose(found[0], found[1], rtol=0, atol=1e-5)
    assert np.allclose(found[0], found[2], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_lines_read_in_halves_are_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay padded to the widest of the whole batch: a line's score depends on that."""
    from media_pipeline.analyzers.ocr import ANALYZER, OcrOptions
    from media_pipeline_tests._clip import store
    from media_pipeline_tests._ocr_pages import slide

    options = OcrOptions()
    engine = ANALYZER.load(ANALYZER.choose(options, store(tmp_path)), "cpu", options)
    page = slide(["Rechnung 4711", "due 2026-11-30", "Total 1,234.50 EUR"])
    height = page.shape[0]
    lines = [page[at : at + height // 4, : 200 + at] for at in range(0, height * 3 // 4, height // 8)]
    whole = engine.recognise(lines)
    real, refused = _ocr_onnx._run, []

    def little_room(session: Any, batch: Floats) -> Floats:
        if len(batch) > 2:
            refused.append(len(batch))
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1310720000")
        return real(session, batch)

    monkeypatch.setattr(_ocr_onnx, "_run", little_room)
    halves = engine.recognise(lines)
    assert refused
    assert [line.text for line in halves] == [line.text for line in whole]
    assert np.allclose([line.score for line in halves], [line.score for line in whole], rtol=0, atol=1e-5)
