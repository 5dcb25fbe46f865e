"""Runs analyzers in this process, several batches of media at a time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import psutil
import pyarrow as pa

from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.analyzers._threads import one_thread_per_call
from media_pipeline.errors import AnalyzerFailed, MediaPipelineError
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.rows import by_medium
from media_pipeline.storage.costs import Cost

# Resident memory of the process above which models do not stay for later batches: what the next analyzer needs on top
# and the decoders beside it fit into 3 GB then, and Dagster, the views and the system into a server with 8.
KEEP_MODELS_BELOW_BYTES = 2 * 1024**3


class InProcessExecutor:
    """Threads over one shared model: the libraries release the interpreter lock while they compute.

    Models stay loaded for later batches of the process, unless `low_memory` asks for the room or the process has grown
    large. Memory is bounded: at most two batches per thread are in flight, whatever the number of media.

    Args:
        on_cost: told what each run of an analyzer took
    """

    def __init__(
        self,
        threads: int,
        device: str = "cpu",
        *,
        low_memory: bool = False,
        on_cost: Callable[[Cost], None] | None = None,
    ) -> None:
        self.threads, self.device = threads, device
        self._low_memory, self._on_cost = low_memory, on_cost
        self._models: dict[str, Any] = {}

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        """Results as they complete, one per medium. A medium that fails takes no other down.

        Raises:
            MediaPipelineError: the model itself cannot be loaded.
        """
        batches = _batched(media, spec.batch_media)
        first = next(batches, None)
        if first is None:
            return
        loading = time.perf_counter()
        model, was_loaded = self._model(spec, choice, options)
        meter = Meter(load_s=time.perf_counter() - loading if was_loaded else None)
        try:
            for result in self._results(spec, model, options, itertools.chain([first], batches)):
                meter.add(result)
                yield result
        finally:
            del model
            if self._on_cost:
                self._on_cost(meter.cost(spec, choice, self.device))
            if self._low_memory or psutil.Process().memory_info().rss > KEEP_MODELS_BELOW_BYTES:
                self.unload()

    def unload(self) -> None:
        """Gives the memory of all models back."""
        self._models.clear()
        gc.collect()
        _give_back()

    def close(self) -> None:
        self.unload()

    def _results(
        self, spec: AnalyzerSpec, model: Any, options: Options, batches: Iterable[Batch]
    ) -> Iterator[AnalyzerResult]:
        with ThreadPoolExecutor(self.threads, thread_name_prefix=spec.name) as pool:
            running: set[Future[list[AnalyzerResult]]] = set()
            try:
                for batch in batches:
                    running.add(pool.submit(_run_batch, spec, model, batch, options))
                    if len(running) >= 2 * self.threads:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from _finished(done)
                yield from _finished(wait(running).done)
            finally:
                for future in running:
                    future.cancel()

    def _model(self, spec: AnalyzerSpec, choice: ModelChoice, options: Options) -> tuple[Any, bool]:
        """The model, and whether it had to be loaded."""
        key = f"{spec.name}:{spec.fingerprint(choice, options)}"
        if key in self._models:
            return self._models[key], False
        one_thread_per_call()
        self._models[key] = spec.load(choice, self.device, options)
        _give_back()  # what loading took on top: files read, weights converted
        return self._models[key], True


class Meter:
    """Sums what one run of an analyzer takes.

    CPU is that of the whole process: libraries have threads of their own, and analyzers run one after the other.
    """

    def __init__(self, load_s: float | None) -> None:
        self._load_s = load_s
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._media, self._frames, self._audio_s = 0, 0, 0.0

    def add(self, result: AnalyzerResult) -> None:
        self._media += 1
        self._frames += result.frames
        self._audio_s += result.audio_s

    def cost(self, spec: AnalyzerSpec, choice: ModelChoice, device: str) -> Cost:
        return Cost(
            analyzer=spec.name,
            model=choice.name,
            device=device,
            media=self._media,
            frames=self._frames,
            audio_s=self._audio_s,
            cpu_s=time.process_time() - self._cpu,
            wall_s=time.perf_counter() - self._wall,
            load_s=self._load_s,
        )


def _give_back() -> None:
    """glibc keeps what is freed between blocks still in use; a C library without the call keeps less."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _batched(media: Iterable[Medium], size: int) -> Iterator[Batch]:
    iterator = iter(media)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


def _finished(done: Iterable[Future[list[AnalyzerResult]]]) -> Iterator[AnalyzerResult]:
    for future in done:
        yield from future.result()


def _run_batch(spec: AnalyzerSpec, model: Any, batch: Batch, options: Options) -> list[AnalyzerResult]:
    started = time.perf_counter()
    ids = [medium.media_id for medium in batch]
    try:
        rows = spec.run(model, batch, options)
        spec.check(rows, set(ids))
    except MemoryError:
        raise  # the whole process is in trouble, not this medium
    except Exception as error:
        if len(batch) > 1:  # find the guilty one, let the others through
            return [result for medium in batch for result in _run_batch(spec, model, (medium,), options)]
        return [_result(batch[0], None, _as_ours(spec, error), time.perf_counter() - started)]
    share = (time.perf_counter() - started) / len(batch)
    per_medium = by_medium(rows)
    empty = spec.schema.empty_table()
    return [_result(medium, per_medium.get(medium.media_id, empty), None, share) for medium in batch]


def _result(medium: Medium, rows: pa.Table | None, error: MediaPipelineError | None, seconds: float) -> AnalyzerResult:
    frames = len(medium.frames) if isinstance(medium.frames, Sized) else 0
    audio_s = medium.audio.duration_s if medium.audio is not None else 0.0
    return AnalyzerResult(medium.media_id, rows, error, seconds, frames, audio_s)


def _as_ours(spec: AnalyzerSpec, error: Exception) -> MediaPipelineError:
    if isinstance(error, MediaPipelineError):
        return error
    return AnalyzerFailed(
        f"{spec.name} failed on this medium: {type(error).__name__}: {str(error)[:300]}",
        "report this with the file; `media-pipeline analyze --retry-failed` tries it again",
    )
