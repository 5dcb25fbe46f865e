"""What the ops of one run share: who does the work, what came of it so far, and who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from media_pipeline.errors import (
    AnalyzerFailed,
    ContractViolation,
    DiskFull,
    InputError,
    MediaPipelineError,
    WorkerLost,
)
from media_pipeline.execution.outcome import Outcome

if TYPE_CHECKING:
    from media_pipeline.execution.placement import Decision
    from media_pipeline.execution.wish import Wish

_PROGRESS_EVERY_S = 10.0
_OF_A_MEDIUM = (InputError, AnalyzerFailed, ContractViolation, WorkerLost)
OnStageOutcome = Callable[[str, Outcome], None]  # (stage, outcome)
Say = Callable[[str], None]


class StageRunner(Protocol):
    """The part of `execution.pipeline.Pipeline` that a run needs."""

    def run_stage(
        self,
        name: str,
        partition_keys: Sequence[str],
        *,
        run_id: str,
        redo: Collection[str] = (),
        retry_failed: bool = False,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> list[Outcome]: ...
    def begin(self, partition_keys: Sequence[str]) -> None: ...
    def place(
        self, partition_keys: Sequence[str], stages: Collection[str], wish: Wish, *, run_id: str, force: bool, say: Say
    ) -> Decision | None: ...
    def give_back(self) -> dict[str, Any] | None: ...
    def end(self, partition_keys: Sequence[str]) -> None: ...
    def release(self, partition_keys: Sequence[str], *, because: str | None = None) -> None: ...
    def finish(self, partition_keys: Sequence[str]) -> dict[str, dict[str, Any]]: ...
    def maintain(self) -> dict[str, dict[str, Any]]: ...
    def close(self) -> None: ...


class BatchRun:
    """One run over a batch of media. Lives as long as the run, in its process.

    Args:
        wish: where it is to compute; None: where its runner computes anyway
    """

    def __init__(
        self, runner: StageRunner, on_outcome: OnStageOutcome | None = None, *, wish: Wish | None = None
    ) -> None:
        self.runner = runner
        self._on_outcome = on_outcome
        self._wish = wish
        self._outcomes: dict[str, dict[str, Outcome]] = {}
        self._begun: list[str] = []
        self.error: MediaPipelineError | None = None  # why the run stopped early
        self.is_interrupted = False
        self.is_concluded = False  # all wanted stages ran and the results over all media are up to date

    def close(self) -> None:
        self.runner.close()

    def begin(self, partition_keys: Sequence[str]) -> bool:
        """Count an attempt of these media, once per run; whether this was the time."""
        if self._begun:
            return False
        self._begun = list(partition_keys)
        self.runner.begin(self._begun)
        return True

    def place(self, stages: Collection[str], *, run_id: str, force: bool, say: Say) -> Decision | None:
        """Decide where the stages of this run compute, and begin to rent where that is not here.

        None where nobody asked: the caller's process has decided for all of its runs, or nothing is computed.

        Args:
            force: results that stand are made anew
        """
        if self._wish is None:
            return None
        return self.runner.place(self._begun, stages, self._wish, run_id=run_id, force=force, say=say)

    def give_back(self) -> dict[str, Any] | None:
        """What was rented for this run is not needed any more; what it came to, if there was anything."""
        return self.runner.give_back() if self._wish is not None else None

    def end(self, partition_keys: Sequence[str]) -> None:
        """The run came to its end with these media, whatever the end."""
        self.runner.end(partition_keys)
        self._begun = []

    def conclude(self, partition_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Bring the results over all media up to date; metadata by result."""
        finished = self.runner.finish(partition_keys)
        self.end(partition_keys)
        self.is_concluded, self.error = True, None
        return finished

    def interrupt(self, partition_keys: Sequence[str], *, go_on_later: bool) -> None:
        """Somebody stopped the run in an orderly way."""
        self.is_interrupted = True
        if go_on_later:
            self.runner.release(partition_keys)
        else:
            self.end(partition_keys)

    def give_up(self, error: MediaPipelineError) -> None:
        """The run stops early, and its media are asked for again.

        What lies in a medium counts as an attempt: one that ends its run every time is left alone some day. A wrong
        setting or a full disk says nothing about the media: for them the run has not begun.
        """
        self.error = error
        if not isinstance(error, _OF_A_MEDIUM):
            with suppress(DiskFull):  # a disk may be too full for this as well: then it counts
                self.runner.release(self._begun, because=str(error))

    def run_stage(
        self,
        name: str,
        partition_keys: Sequence[str],
        *,
        run_id: str,
        redo: frozenset[str],
        retry_failed: bool,
        say: Say,
    ) -> list[Outcome]:
        """Bring one stage of these media up to date.

        Args:
            redo: keys whose result is computed again although it stands.
            retry_failed: whether what failed on the same content before is tried again.
            say: told now and then how far the stage is.
        """
        progress = _Progress(name, len(partition_keys), say)

        def observe(outcome: Outcome) -> None:
            progress.count()
            if self._on_outcome is not None:
                self._on_outcome(name, outcome)

        # In one call: when a stage is through, a rented machine that nothing more can use is given back.
        outcomes = self.runner.run_stage(
            name, partition_keys, run_id=run_id, redo=redo, retry_failed=retry_failed, on_outcome=observe
        )
        self._outcomes[name] = {outcome.partition_key: outcome for outcome in outcomes}
        return outcomes

    def has_run(self, stage: str) -> bool:
        """Whether this run has brought the stage up to date."""
        return stage in self._outcomes

    def fingerprint(self, stage: str, partition_key: str) -> str | None:
        """Of a result of this run; None when the stage did not run or the medium is not done."""
        outcome = self._outcomes.get(stage, {}).get(partition_key)
        return outcome.fingerprint if outcome is not None and outcome.status == "done" else None

    def by_status(self, status: str) -> Mapping[str, list[Outcome]]:
        """Outcomes of this status, by stage, without the stages that have none."""
        found = {
            stage: [outcome for outcome in outcomes.values() if outcome.status == status]
            for stage, outcomes in self._outcomes.items()
        }
        return {stage: outcomes for stage, outcomes in found.items() if outcomes}

    def broken(self, partition_keys: Sequence[str]) -> dict[str, str]:
        """Why each medium that is not done in every stage is not; those without a model do not count."""
        reasons: dict[str, str] = {}
        for status in ("failed", "blocked"):  # the cause first: what it blocked says nothing new
            for stage, outcomes in self.by_status(status).items():
                for outcome in outcomes:
                    reasons.setdefault(outcome.partition_key, f"{stage}: {outcome.reason or status}")
        known = {key for outcomes in self._outcomes.values() for key in outcomes}
        unknown = {key: "no medium of this home has this key" for key in partition_keys if key not in known}
        return reasons | unknown


_handed_over: ContextVar[BatchRun | None] = ContextVar("handed_over", default=None)


@contextmanager
def handing_over(batch: BatchRun) -> Iterator[None]:
    """Let a run executed inside use this object instead of opening its own.

    Dagster cannot replace a resource and select assets in one call.
    """
    token = _handed_over.set(batch)
    try:
        yield
    finally:
        _handed_over.reset(token)


def handed_over() -> BatchRun | None:
    """What the caller of this run handed over, if the run is executed in the caller's process."""
    return _handed_over.get()


class _Progress:
    """Says at sensible intervals how many media a stage has behind it."""

    def __init__(self, stage: str, total: int, say: Say) -> None:
        self._stage, self._total, self._say = stage, total, say
        self._done = 0
        self._said_at = time.monotonic()

    def count(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said_at >= _PROGRESS_EVERY_S and self._done < self._total:
            self._said_at = now
            self._say(f"{self._stage}: {self._done} of {self._total} media")
