"""Analyzers in a process of their own on this machine: its crash costs what it was computing, not the run."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.config import Settings, child_environment
from media_pipeline.errors import WorkerLost
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.places import Place
from media_pipeline.execution.uploads import is_sendable
from media_pipeline.execution.worker_client import Cannot, WorkerClient
from media_pipeline.storage.costs import Cost

# Deaths without an answer between them after which it is not the media: with some at hand, and at the start.
_DEATHS_IN_A_ROW, _BARREN_IN_A_ROW = 5, 2
_SECRET_WORDS = ("KEY", "PASS", "SECRET", "TOKEN", "WEBHOOK")

log = logging.getLogger(__name__)


def local_place(settings: Settings) -> Place:
    """A worker of this home. It gets no key, password or address that is one; what needs them is computed here."""
    environment = {
        **child_environment(settings),
        # Settings need not come from the environment.
        "MEDIA_PIPELINE_MODELS_DIR": str(settings.models),
        "MEDIA_PIPELINE_TIER": settings.tier,
        "MEDIA_PIPELINE_OFFLINE": str(int(settings.offline)),
        "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
    }
    without = {n: v for n, v in environment.items() if not any(word in n.upper() for word in _SECRET_WORDS)}
    command = (sys.executable, "-m", "media_pipeline.execution.worker", "--device", "cpu", "--home", str(settings.home))
    return Place("the worker process", command, MappingProxyType(without))


class WorkerExecutor:
    """One worker process, started with the first medium and again after it died.

    Of the media it was computing then, each is tried again alone. One with which it dies alone has the result
    WorkerLost; the others lose nothing but time.

    Args:
        threads: media computed at a time
        heartbeat_timeout_s: silence after which the worker counts as hung, and is ended
        on_cost: told what each run of an analyzer took
    """

    def __init__(
        self,
        place: Place,
        threads: int,
        *,
        heartbeat_timeout_s: float,
        on_cost: Callable[[Cost], None] | None = None,
        low_memory: bool = False,
    ) -> None:
        self._place, self._threads, self._timeout_s = place, threads, heartbeat_timeout_s
        self._on_cost, self._low_memory = on_cost, low_memory
        self._here = InProcessExecutor(threads, low_memory=low_memory, on_cost=on_cost)
        self._worker: WorkerClient | None = None

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        """Results as they complete, one per medium.

        Raises:
            MediaPipelineError: the model cannot be loaded, or no worker lives.
        """
        todo = _Todo(media)
        try:
            while todo.has_more and choice.secret is None:
                try:
                    worker = self._begun(spec, choice, options)
                    yield from self._through(worker, todo)
                    cost = worker.end()
                    if cost is not None and self._on_cost is not None:
                        self._on_cost(cost)
                except WorkerLost as error:
                    log.warning("%s", error)
                    yield from todo.lost(self._stop(), error)
        except Cannot as reason:
            log.warning("%s is not computed by %s: %s", spec.name, self._place.name, reason)
        finally:
            if self._low_memory or (self._worker is not None and self._worker.in_flight):
                self._stop()
        # What the worker cannot, or must not: it has no secrets, and who asks a server computes nothing itself.
        yield from self._here.run(spec, choice, options, todo.rest())

    def unload(self) -> None:
        """Ends the worker: all memory of all models."""
        self._stop()
        self._here.unload()

    def close(self) -> None:
        self.unload()

    def _begun(self, spec: AnalyzerSpec, choice: ModelChoice, options: Options) -> WorkerClient:
        if self._worker is None:
            arguments = ("--threads", str(self._threads))
            self._worker = WorkerClient(self._place, heartbeat_timeout_s=self._timeout_s, arguments=arguments)
            self._worker.greet()
        self._worker.begin(spec, choice, options)
        return self._worker

    @staticmethod
    def _through(worker: WorkerClient, todo: _Todo) -> Iterator[AnalyzerResult]:
        """Until nothing is left that can be sent. Media are drawn as there is room; what is answered goes out first."""
        while worker.in_flight or todo.has_more:
            size, window = (1, 1) if todo.is_alone else (worker.batch_media, worker.window)
            has_room = todo.has_more and len(worker.in_flight) + size <= window
            answer = worker.receive(0 if has_room else None)
            if answer is not None:
                todo.lives()
                yield answer.result
            elif has_room and (batch := [medium for medium in todo.take(size) if todo.is_sendable(medium)]):
                worker.send([(medium.media_id, medium) for medium in batch])

    def _stop(self) -> list[Medium]:
        """Ends the worker; returns what it owes."""
        worker, self._worker = self._worker, None
        if worker is None:
            return []
        worker.close(at_once=bool(worker.in_flight))
        return list(worker.in_flight.values())


class _Todo:
    """Media still to be done: first those that a worker owed when it died, one at a time."""

    def __init__(self, media: Iterable[Medium]) -> None:
        self._again: deque[Medium] = deque()
        self._media = iter(media)
        self._next: list[Medium] = []  # drawn, to see whether there is one
        self._left: list[Medium] = []  # whose frames or sound are not files
        self._deaths = self._barren = 0  # in a row: with media at hand, and without

    @property
    def is_alone(self) -> bool:
        return bool(self._again)

    @property
    def has_more(self) -> bool:
        if not self._again and not self._next:
            self._next.extend(itertools.islice(self._media, 1))
        return bool(self._again or self._next)

    def take(self, size: int) -> list[Medium]:
        if self._again:
            return [self._again.popleft()]
        taken, self._next = self._next, []
        return taken + list(itertools.islice(self._media, size - len(taken)))

    def is_sendable(self, medium: Medium) -> bool:
        """Whether a worker can have it; what it cannot is part of the `rest`."""
        if not is_sendable(medium):
            self._left.append(medium)
            return False
        return True

    def rest(self) -> Iterator[Medium]:
        """All that is left."""
        return itertools.chain(self._left, self._again, self._next, self._media)

    def lives(self) -> None:
        """The worker gave an answer."""
        self._deaths = self._barren = 0

    def lost(self, owed: list[Medium], error: WorkerLost) -> Iterator[AnalyzerResult]:
        """
        Raises:
            WorkerLost: it is not the media.
        """
        if owed:
            self._deaths += 1
        else:
            self._barren += 1
        if self._deaths >= _DEATHS_IN_A_ROW or self._barren >= _BARREN_IN_A_ROW:
            raise error
        if len(owed) == 1:
            yield AnalyzerResult(owed[0].media_id, None, error, 0.0)
        else:
            self._again.extend(owed)
