"""One place at work for one run of an analyzer, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from media_pipeline.analyzers._spec import Medium
from media_pipeline.errors import StorageConflict, WorkerLost
from media_pipeline.execution.agreement import disagreement
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.foreign import Plausibility
from media_pipeline.execution.messages import BadMessage
from media_pipeline.execution.places import Place
from media_pipeline.execution.trial import Item, Trial
from media_pipeline.execution.worker_client import Answer, Cannot, WorkerClient

if TYPE_CHECKING:
    from media_pipeline.execution.pool_run import PoolRun

# A worker may die once, of one medium; if it dies again before it has answered anything, the place is no good.
_DEATHS_IN_A_ROW = 2
# Media in a row that it fails on, and nothing else: then it does not compute this analyzer.
_FAILURES_IN_A_ROW = 5
_LOOK_S = 0.1
# Silence with media in hand, beyond what the slowest honest machine needs for them.
_PATIENCE_S, _PER_FRAME, _PER_SECOND = 600.0, 2.0, 2.0

log = logging.getLogger(__name__)


class Crew:
    """A place, its worker, and what it has in hand."""

    def __init__(self, run: PoolRun, place: Place) -> None:
        self.place = place
        self.wants = 0  # media that could be sent now
        self._run = run
        self._worker: WorkerClient | None = None
        self._is_serving = False
        self._items: dict[str, Item] = {}  # in flight
        self._answers = 0  # since it was last started
        self._failures = 0  # in a row
        self._plausible = Plausibility(run.spec)
        share = run.settings.gpu.recheck_share if place.is_foreign else 0.0
        self._trial = Trial(run, self._disagreement, share, run.chance)
        self._thread = threading.Thread(target=self._live, name=f"place-{place.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """The run is over. What the place is at is broken off, unless this machine was only quicker with it."""
        is_in_vain = bool(self._items) and self._run.is_broken_off
        if self._worker is not None and (is_in_vain or not self._is_serving):
            self._worker.interrupt()
        self._thread.join()

    def _live(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._run.fail(error)
        finally:
            self._run.leaves(self)

    def _work(self) -> None:
        deaths = 0
        while not self._run.is_over():
            self._answers = 0
            try:
                self._worker = self._run.worker(self.place)
                self._worker.greet()
                self._worker.begin(self._run.spec, self._run.choice, self._run.options)
                self._is_serving = True
                if self._serve(self._worker):
                    self._run.took(self._worker.end())
                return
            except Cannot as reason:
                with self._run.lock:
                    self._give_up(counts=False)
                    self._trial.close()
                self._run.cannot(self.place, reason)
                return
            except WorkerLost as error:
                lied, self._is_serving = isinstance(error, BadMessage), False
                if self._run.is_over() and not lied:
                    self._give_up(counts=True)
                    return
                deaths = 1 if self._answers else deaths + 1
                if lied or deaths >= _DEATHS_IN_A_ROW:
                    self._lose(error, lied=lied)
                    return
                self._give_up(counts=True)
                self._run.tell(f"{error}; it is started again")

    def _serve(self, worker: WorkerClient) -> bool:
        """Until the run is over; False where it was broken off.

        Raises:
            Cannot: it fails on everything.
            WorkerLost: it died. BadMessage: it is not to be trusted.
        """
        heard = time.monotonic()
        while True:
            if self._run.is_withdrawn(self.place):
                self._take_leave(worker)
                return False
            if self._run.is_over():
                break
            sent = self._feed(worker)
            answer = worker.receive(0 if sent else _LOOK_S) if self._items else None
            if answer is not None:
                self._take(answer)
            if sent or answer is not None:
                self._run.moved(self.place, *worker.moved())
                heard = time.monotonic()
            elif not self._items:
                self._run.wait(_LOOK_S)
            elif time.monotonic() - heard > self._patience_s():
                raise worker.lost(f"has not answered for {time.monotonic() - heard:.0f} s")
        with self._run.lock:
            if self._trial.why_not:
                raise BadMessage(self._trial.why_not)
            if self._run.is_broken_off and self._items:
                self._give_up(counts=False)
                return False
            self._items = {}  # this machine was quicker with them
        worker.abandon()
        return True

    def _feed(self, worker: WorkerClient) -> bool:
        """Send a batch if there is one and room for it."""
        with self._run.lock:
            if self._trial.why_not:
                raise BadMessage(self._trial.why_not)
            room = 0 if self._trial.is_full(worker.window) else worker.window - len(self._items)
            self.wants = max(0, room)
            items = self._run.take(min(room, worker.batch_media), is_idle=not self._items)
            if not items:
                # From as many as possible: not the first one that happens to be there.
                if room <= 0 or self._run.is_exhausted or self._trial.has_held:
                    self._trial.choose([item for item in self._items.values() if not item.is_here])
                return False
            self.wants -= len(items)
            fitting = [item for item in items if worker.fits(item.medium)]
            for item in items:
                if item not in fitting:
                    self._run.to_here(item)
            self._items.update((item.name, item) for item in fitting)
        try:
            worker.send([(item.name, item.medium) for item in fitting])
        except StorageConflict:  # the cache has let one of them go; where it is decoded again is known there
            with self._run.lock:
                for item in fitting:
                    del self._items[item.name]
                    self._run.to_here(item)
        return True

    def _take(self, answer: Answer) -> None:
        item = self._items[answer.name]
        result = answer.result
        if result.rows is not None and self.place.is_foreign:
            self._plausible.check(item.medium, result.rows)  # raises while the medium still is in hand
        with self._run.lock:
            del self._items[answer.name]
            if result.rows is not None or not self.place.is_foreign:
                self._answers, self._failures = self._answers + 1, 0
                self._trial.accept(item, result)
                return
            # Not believed unseen: a machine could keep silent about what it does not want to be found.
            log.info("%s failed on a medium of %s: %s", self.place.name, self._run.spec.name, result.error)
            self._failures += 1
            self._trial.failed(item)
        if self._failures >= _FAILURES_IN_A_ROW:
            raise Cannot(f"it fails on one medium after the other: {result.error}")

    def _take_leave(self, worker: WorkerClient) -> None:
        """The place goes, in good order: what it has answered already is taken."""
        while self._items and (answer := worker.receive(0)) is not None:
            self._take(answer)
        with self._run.lock:
            self._give_up(counts=False)
            self._trial.close()
        self._run.discard(self.place)

    def _lose(self, error: WorkerLost, *, lied: bool) -> None:
        with self._run.lock:
            relied_on = list(self._trial.relied_on) if lied else []
            if lied and not self._trial.why_not:
                self._trial.distrust(error.cause)
            self._give_up(counts=not lied)
            if not lied:
                self._trial.close()
        self._run.discard(self.place)
        self._run.lost(self.place, error, relied_on)

    def _give_up(self, *, counts: bool) -> None:
        """What it owes goes back to where it came from, and its worker ends if it is at it.

        Args:
            counts: it may have died of it
        """
        with self._run.lock:
            items, self._items = list(self._items.values()), {}
            for item in items:
                item.losses += counts
                if item.is_here:
                    self._trial.failed(item)
            self._run.to_queue([item for item in items if not item.is_here])
        if items or counts:
            self._run.discard(self.place)

    def _patience_s(self) -> float:
        media = [item.medium for item in self._items.values()]
        return _PATIENCE_S + sum(_PER_FRAME * m.frame_count + _PER_SECOND * m.audio_s for m in media)

    def _disagreement(self, here: AnalyzerResult, there: AnalyzerResult, medium: Medium) -> str | None:
        run = self._run
        try:
            why = disagreement(run.spec, run.options, medium, here.rows, there.rows)
        except Exception as error:  # of values that nobody thought of: not a reason to believe them
            log.exception("results of %s cannot be compared", run.spec.name)
            why = f"they cannot be compared ({type(error).__name__})"
        return f"answered for {run.spec.name} with other things than this machine: {why}" if why else None
