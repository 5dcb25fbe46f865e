"""What a run takes beside the work of its analyzers: what a quote has to add, and can only know by measuring.

Starting stages, commits, indexes, views, and Dagster's own part are not the work of any analyzer; they depend on the
machine and on the size of the home. So a run is timed as a whole, and what its stages account for is taken off.
"""

from __future__ import annotations

import time

from media_pipeline.storage.costs import Cost


class RunClock:
    """For the runs of one process, one after another. A run that is broken off says nothing."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._accounted_s = 0.0
        self._stage = (0.0, 0.0)  # when it began, and what was accounted for then

    def begin(self) -> None:
        self._began, self._accounted_s = time.monotonic(), 0.0

    def begin_stage(self) -> None:
        self._stage = (time.monotonic(), self._accounted_s)

    def computed(self, cost: Cost) -> None:
        """An analyzer has computed on this machine."""
        self.account(cost.wall_s + (cost.load_s or 0.0))

    def account(self, seconds: float) -> None:
        """So much of the run is known otherwise."""
        self._accounted_s += seconds

    def stage_was_elsewhere(self) -> None:
        """It counts as a whole, waiting for other machines included."""
        began, before = self._stage
        self._accounted_s = before + time.monotonic() - began

    def end(self) -> float | None:
        """Seconds of the run that nothing accounts for; None where no run had begun."""
        if self._began is None:
            return None
        rest = time.monotonic() - self._began - self._accounted_s
        self._began = None
        return max(0.0, rest)
