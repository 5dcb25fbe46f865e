"""Runs analyzers in this process, several batches of media at a time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import psutil
import pyarrow as pa

from media_pipeline.analyzers._device import CUDA, load_on
from media_pipeline.analyzers._gpu_memory import card, in_brief
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
        self._models: dict[str, tuple[Any, str]] = {}  # and what each computes on

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        """Results as they complete, one per medium. A medium that fails takes no other down.

        Raises:
            MediaPipelineError: the model itself cannot be loaded.
        """
        iterator = iter(media)
        first = next(iterator, None)
        if first is None:
            return
        loaded = self.load(spec, choice, options)
        batches = _batched(itertools.chain([first], iterator), loaded.batch_media)
        try:
            yield from self._results(loaded, batches)
        finally:
            cost = loaded.cost()
            del loaded
            if self._on_cost:
                self._on_cost(cost)
            if self._low_memory or psutil.Process().memory_info().rss > KEEP_MODELS_BELOW_BYTES:
                self.unload()

    def load(self, spec: AnalyzerSpec, choice: ModelChoice, options: Options) -> Loaded:
        """The analyzer with its model, which is loaded unless it is there already.

        Raises:
            MediaPipelineError: the model cannot be loaded.
        """
        key = f"{spec.name}:{spec.fingerprint(choice, options)}"
        load_s = None
        if key not in self._models:
            started = time.perf_counter()
            one_thread_per_call()
            self._models[key] = load_on(spec, choice, self.device, options)
            _give_back()  # what loading took on top: files read, weights converted
            load_s = time.perf_counter() - started
        model, device = self._models[key]
        return Loaded(spec, choice, options, model, device, load_s)

    def unload(self) -> None:
        """Gives the memory of all models back."""
        self._models.clear()
        gc.collect()
        _give_back()

    def close(self) -> None:
        self.unload()

    def _results(self, loaded: Loaded, batches: Iterable[Batch]) -> Iterator[AnalyzerResult]:
        with ThreadPoolExecutor(self.threads, thread_name_prefix=loaded.spec.name) as pool:
            running: set[Future[list[AnalyzerResult]]] = set()
            try:
                for batch in batches:
                    running.add(pool.submit(loaded.run, batch))
                    if len(running) >= 2 * self.threads:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from _finished(done)
                yield from _finished(wait(running).done)
            finally:
                for future in running:
                    future.cancel()


class Loaded:
    """An analyzer with its model, for one run of it; measures what that takes. Safe for threads.

    CPU is that of the whole process: libraries have threads of their own, and analyzers run one after the other.
    Wall time is that in which at least one batch was computed: not that of waiting for media to come.
    """

    def __init__(
        self,
        spec: AnalyzerSpec,
        choice: ModelChoice,
        options: Options,
        model: Any,
        device: str,
        load_s: float | None,
    ) -> None:
        self.spec, self.choice, self.options = spec, choice, options
        found = card() if device == CUDA else None
        self.device = found.name if found else device  # as results name it: "cpu", or the GPU
        self.batch_media = spec.gpu_batch_media or spec.batch_media if device == CUDA else spec.batch_media
        self._model, self._load_s = model, load_s
        self._lock = threading.Lock()
        self._cpu, self._busy_s, self._busy_since, self._running = time.process_time(), 0.0, 0.0, 0
        self._media, self._frames, self._audio_s = 0, 0, 0.0

    def run(self, batch: Batch) -> list[AnalyzerResult]:
        """One result per medium. A medium that fails takes no other down."""
        with self._lock:
            if self._running == 0:
                self._busy_since = time.perf_counter()
            self._running += 1
        results: list[AnalyzerResult] = []
        try:
            results = [
                replace(result, device=self.device)
                for result in _run_batch(self.spec, self._model, batch, self.options)
            ]
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._busy_s += time.perf_counter() - self._busy_since
                self._media += len(results)
                self._frames += sum(result.frames for result in results)
                self._audio_s += sum(result.audio_s for result in results)
        return results

    def cost(self) -> Cost:
        """What it took so far, loading apart."""
        with self._lock:
            return Cost(
                analyzer=self.spec.name,
                model=self.choice.name,
                device=self.device,
                media=self._media,
                frames=self._frames,
                audio_s=self._audio_s,
                cpu_s=time.process_time() - self._cpu,
                wall_s=self._busy_s,
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
    return AnalyzerResult(medium.media_id, rows, error, seconds, medium.frame_count, medium.audio_s)


def _as_ours(spec: AnalyzerSpec, error: Exception) -> MediaPipelineError:
    if isinstance(error, MediaPipelineError):
        return error
    return AnalyzerFailed(
        f"{spec.name} failed on this medium: {in_brief(error)}",
        "report this with the file; `media-pipeline analyze --retry-failed` tries it again",
    )
