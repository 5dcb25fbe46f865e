"""Runs analyzers in this process, several batches of media at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.errors import AnalyzerFailed, MediaPipelineError
from media_pipeline.execution.rows import by_medium


@dataclass(frozen=True, slots=True)
class AnalyzerResult:
    """Rows or error of one medium, and its share of the time."""

    media_id: str
    rows: pa.Table | None
    error: MediaPipelineError | None
    seconds: float


class InProcessExecutor:
    """Threads over one shared model: the libraries release the interpreter lock while they compute.

    Models stay loaded for later batches of the process. Memory is bounded: at most two batches per thread are in
    flight, whatever the number of media.
    """

    def __init__(self, threads: int, device: str = "cpu") -> None:
        self.threads, self.device = threads, device
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
        model = self._model(spec, choice, options)
        with ThreadPoolExecutor(self.threads, thread_name_prefix=spec.name) as pool:
            running: set[Future[list[AnalyzerResult]]] = set()
            try:
                for batch in itertools.chain([first], batches):
                    running.add(pool.submit(_run_batch, spec, model, batch, options))
                    if len(running) >= 2 * self.threads:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from _results(done)
                yield from _results(wait(running).done)
            finally:
                for future in running:
                    future.cancel()

    def _model(self, spec: AnalyzerSpec, choice: ModelChoice, options: Options) -> Any:
        key = f"{spec.name}:{spec.fingerprint(choice, options)}"
        if key not in self._models:
            self._models[key] = spec.load(choice, self.device, options)
        return self._models[key]


def _batched(media: Iterable[Medium], size: int) -> Iterator[Batch]:
    iterator = iter(media)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


def _results(done: Iterable[Future[list[AnalyzerResult]]]) -> Iterator[AnalyzerResult]:
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
        return [AnalyzerResult(ids[0], None, _as_ours(spec, error), time.perf_counter() - started)]
    share = (time.perf_counter() - started) / len(batch)
    per_medium = by_medium(rows)
    empty = spec.schema.empty_table()
    return [AnalyzerResult(media_id, per_medium.get(media_id, empty), None, share) for media_id in ids]


def _as_ours(spec: AnalyzerSpec, error: Exception) -> MediaPipelineError:
    if isinstance(error, MediaPipelineError):
        return error
    return AnalyzerFailed(
        f"{spec.name} failed on this medium: {type(error).__name__}: {str(error)[:300]}",
        "report this with the file; `media-pipeline analyze --retry-failed` tries it again",
    )
