"""One run of an analyzer over several places: who has which medium, until each has its one result."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.errors import BudgetReached, WorkerLost
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.places import Place
from media_pipeline.execution.pool_crew import Crew
from media_pipeline.execution.trial import Item
from media_pipeline.execution.uploads import is_sendable
from media_pipeline.execution.worker_client import Cannot, WorkerClient
from media_pipeline.storage.costs import Cost

if TYPE_CHECKING:
    from media_pipeline.execution.pool import PooledExecutor

_LOSSES = 2  # places that died with a medium in hand; then it is computed here, by itself
_AHEAD_HERE = 2  # media that wait for this machine where it does everything
_LOOK_S = 0.2
_SAY_EVERY_S = 60.0


class PoolRun:
    """The media of one run. `results` is for one thread; the places' threads call the rest.

    Each medium that was drawn is in exactly one place: in the queue, in a crew's hands, held back by a trial, with
    this machine, or among the results to be handed out.
    """

    def __init__(
        self, pool: PooledExecutor, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> None:
        self.spec, self.choice, self.options, self.settings = spec, choice, options, pool.settings
        self.lock = threading.RLock()
        self.chance = random.SystemRandom()
        self.is_exhausted = False
        self._pool, self._fleet, self._media = pool, pool.fleet, iter(media)
        self._changed = threading.Condition(self.lock)
        self._queue: deque[Item] = deque()
        self._for_here: deque[Item] = deque()
        self._here: dict[str, Item] = {}  # that this machine computes, by media_id
        self._here_thread: threading.Thread | None = None
        self._all_here = False  # there is no place, and none is expected
        self._waits_for: str | None = None  # the limit of the budget that ended it, where the rest is not for here
        self._results: deque[AnalyzerResult] = deque()
        self._open = 0  # media drawn whose results have not been handed out
        self._crews: dict[str, Crew] = {}
        self._places: set[str] = set()  # that the fleet offers
        self._unfit: set[str] = set()  # that this analyzer must do without
        self.is_broken_off = False
        self._failure: BaseException | None = None
        self._words: deque[str] = deque()
        self._said_at = time.monotonic()

    def results(self) -> Iterator[AnalyzerResult]:
        """One per medium, as they complete.

        Raises:
            MediaPipelineError: what this machine had to compute cannot be computed here.
        """
        first = next(self._media, None)
        if first is None:  # no place is started for nothing
            return
        self._media = itertools.chain([first], self._media)
        try:
            while True:
                self._say_words()
                while self._results:
                    result = self._results.popleft()
                    yield result
                    with self.lock:
                        self._open -= 1
                if self._failure is not None:
                    raise self._failure
                if self.is_over():
                    return
                self._hire()
                if not self._draw():
                    self._idle()
        finally:
            self._stop()

    # --- in the caller's thread -----------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Every place that is there works; where there is none and none comes, this machine does."""
        state = self._fleet.state()
        with self._changed:
            self._places = {place.name for place in state.places}
            for place in state.places:
                if place.name not in self._crews and place.name not in self._unfit and not self._pool.is_lost(place):
                    self._crews[place.name] = Crew(self, place)
                    self._crews[place.name].start()
            # A place that is on its way will not do better than one that could not.
            is_expected = bool(self._crews) or (state.is_starting and not self._unfit)
            self._all_here = not is_expected
            self._waits_for = state.reason if self._all_here and state.waits else None
            while self._all_here and self._queue and len(self._for_here) < _AHEAD_HERE:
                self._without_place(self._queue.popleft())
            self._changed.notify_all()
        if self._waits_for is not None:
            self._pool.tell_once(f"{self.spec.name} waits for a later run: {self._waits_for}")
        elif self._all_here and not self._unfit:
            self._pool.tell_once(f"{self.spec.name} is computed here: {state.reason or 'there is no machine'}")
        elif not self._crews and is_expected and time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            self._pool.tell(f"{self.spec.name} waits for a machine")

    def _draw(self) -> bool:
        """Take one more medium, if somebody could do with it."""
        with self.lock:
            if self._all_here:
                room = _AHEAD_HERE - len(self._for_here)
            else:
                room = sum(crew.wants for crew in self._crews.values()) - len(self._queue)
            if self.is_exhausted or room <= 0:
                return False
        medium = next(self._media, None)
        with self._changed:
            if medium is None:
                self.is_exhausted = True
            else:
                self._open += 1
                item = Item(self._pool.name_of(medium), medium)
                if self._all_here:
                    self._without_place(item)
                elif not is_sendable(medium):
                    self.to_here(item)
                else:
                    self._queue.append(item)
            self._changed.notify_all()
        return True

    def _without_place(self, item: Item) -> None:
        """What becomes of a medium when no place is left."""
        if self._waits_for is None:
            self.to_here(item)
        else:
            error = BudgetReached(self._waits_for, "a later run computes it")
            self.deliver(AnalyzerResult(item.medium.media_id, None, error, 0.0))

    def _idle(self) -> None:
        with self._changed:
            if self._results or self._failure is not None or self._words or self.is_over():
                return
            if self._crews or self._for_here or self._here:
                self._changed.wait(_LOOK_S)
                return
        self._fleet.wait(1.0)

    def _say_words(self) -> None:
        while self._words:
            self._pool.tell(self._words.popleft())

    def _stop(self) -> None:
        with self._changed:
            self.is_broken_off = not self.is_over()
            self._changed.notify_all()
        for crew in list(self._crews.values()):
            crew.end()
        if self._here_thread is not None:
            self._here_thread.join()
        self._say_words()

    # --- for the crews --------------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        with self.lock:
            return self.is_broken_off or (self.is_exhausted and self._open == 0)

    def is_withdrawn(self, place: Place) -> bool:
        """The fleet has taken it back."""
        with self.lock:
            return place.name not in self._places

    def take(self, count: int, *, is_idle: bool) -> list[Item]:
        """So many media of the queue; fewer only for who has nothing else to do, or at the end."""
        with self.lock:
            if count <= 0 or (len(self._queue) < count and not is_idle and not self.is_exhausted):
                return []
            return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    def to_queue(self, items: Collection[Item]) -> None:
        """Back to the front, in their order; what two places died of is computed here, by itself."""
        with self._changed:
            for item in reversed(list(items)):
                if item.losses >= _LOSSES:
                    self.to_here(item)
                else:
                    self._queue.appendleft(item)
            self._changed.notify_all()

    def to_here(self, item: Item) -> None:
        with self._changed:
            item.is_here = True
            self._for_here.append(item)
            if self._here_thread is None:
                self._here_thread = threading.Thread(target=self._serve_here, name="here", daemon=True)
                self._here_thread.start()
            self._changed.notify_all()

    def deliver(self, result: AnalyzerResult) -> None:
        with self._changed:
            self._results.append(result)
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            if not self.is_over():
                self._changed.wait(timeout_s)

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def leaves(self, crew: Crew) -> None:
        with self._changed:
            self._crews.pop(crew.place.name, None)
            self._changed.notify_all()

    def tell(self, words: str) -> None:
        """Said by the caller's thread: what prints it need not be safe for others."""
        with self._changed:
            self._words.append(words)
            self._changed.notify_all()

    def cannot(self, place: Place, reason: Cannot) -> None:
        with self.lock:
            self._unfit.add(place.name)
        self._pool.tell_once(f"{self.spec.name} is not computed by {place.name}: {reason}", self.tell)

    def lost(self, place: Place, error: WorkerLost, relied_on: Collection[str]) -> None:
        self._pool.lost(place, error.cause, self.spec.name, relied_on, self.tell)

    def moved(self, place: Place, sent_bytes: int, received_bytes: int) -> None:
        self._fleet.moved(place, sent_bytes, received_bytes)

    def took(self, cost: Cost | None) -> None:
        if cost is not None and self._pool.on_cost is not None:
            self._pool.on_cost(cost)

    def worker(self, place: Place) -> WorkerClient:
        return self._pool.worker(place)

    def discard(self, place: Place) -> None:
        self._pool.discard(place)

    # --- this machine ---------------------------------------------------------------------------------------------

    def _serve_here(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._for_here and not self.is_over():
                        self._changed.wait(_LOOK_S)
                    if self.is_over():
                        return
                results = self._pool.here.run(self.spec, self.choice, self.options, self._feed_here())
                with contextlib.closing(results):  # type: ignore[type-var]
                    for result in results:
                        self._computed_here(result)
                        if self.is_broken_off:
                            return
        except BaseException as error:
            self.fail(error)

    def _feed_here(self) -> Iterator[Medium]:
        is_first = True
        while True:
            with self._changed:
                while self._all_here and not self._for_here and not (self.is_exhausted and not self._queue):
                    if self.is_broken_off:
                        return
                    self._changed.wait(_LOOK_S)
                if self.is_broken_off or not self._for_here:
                    return
                is_alone = self._for_here[0].losses >= _LOSSES
                if is_alone and not is_first:
                    return
                item = self._for_here.popleft()
                self._here[item.medium.media_id] = item
                self._changed.notify_all()
            yield item.medium
            if is_alone:
                return
            is_first = False

    def _computed_here(self, result: AnalyzerResult) -> None:
        with self._changed:
            item = self._here.pop(result.media_id)
            self.deliver(result)
            if item.trial is not None:
                item.trial.computed_here(item, result)
