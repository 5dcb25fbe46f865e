"""Whether a rented machine is believed: some of its results are computed here as well.

Its results of an analyzer are held back until one of them has proved right, so that a machine that makes them up has
written nothing. Which medium that is, is decided here, at random, when several are there already; the cheaper half of
them is chosen from, because the others wait for it. Later a share of all, also chosen when the answer is there, is
computed again: a machine that was honest at first and then is not is found sooner or later, and who relied on it by
then is named. In both cases what counts as the result is what was computed here.

Two results without rows agree on little: where nothing is found in a medium the next one is tried, three times.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from media_pipeline.analyzers._spec import Medium
from media_pipeline.execution.executor import AnalyzerResult

_EMPTY_ENOUGH = 3
_HELD = 64  # results that wait, at least so many; beyond them no more is sent
_FRAME_S = 0.2  # a frame is as much work as that much sound, about


@dataclass(slots=True, eq=False)
class Item:
    """One medium of a run."""

    name: str  # that places know it by
    medium: Medium
    losses: int = 0  # places that died while they had it
    is_here: bool = False  # this machine computes it, and answers for it whatever a place says
    trial: Trial | None = None  # which waits for that


class Court(Protocol):
    """What a trial needs of the run; called with its lock held, as everything here is."""

    def deliver(self, result: AnalyzerResult) -> None: ...
    def to_queue(self, items: Collection[Item]) -> None: ...
    def to_here(self, item: Item) -> None: ...


# (medium, rows here, rows there) -> what is too different
Disagreement = Callable[[AnalyzerResult, AnalyzerResult, Medium], str | None]


class Trial:
    """Of one place, in one run of an analyzer.

    Args:
        share: of its media that are computed here as well; 0: all are believed
    """

    def __init__(self, court: Court, disagreement: Disagreement, share: float, chance: random.Random) -> None:
        self._court, self._disagreement, self._share, self._chance = court, disagreement, share, chance
        self.is_trusted = share == 0
        self.why_not: str | None = None  # it lied
        self.relied_on: list[str] = []  # media whose results were handed out without being computed here
        self._held: list[tuple[Item, AnalyzerResult]] = []
        self._checked: dict[str, Item] = {}
        self._here: dict[str, AnalyzerResult] = {}
        self._there: dict[str, AnalyzerResult] = {}
        self._empty = 0
        self._is_closed = False

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def is_full(self, window: int) -> bool:
        """Whether so much is held back that no more should be sent."""
        return len(self._held) >= max(_HELD, 2 * window)

    def accept(self, item: Item, result: AnalyzerResult) -> None:
        """A plausible result of the place."""
        if item.name in self._checked:
            self._there[item.name] = result
            self._judge(item)
        elif item.is_here:
            pass
        elif self.why_not:
            self._court.to_queue([item])
        elif self.is_trusted:
            self._hand_out(item, result)
        else:
            self._held.append((item, result))

    def failed(self, item: Item) -> None:
        """The place has no result for it: this machine has the last word."""
        if item.name in self._checked:
            self._void(item)
        elif not item.is_here:
            self._court.to_here(item)

    def computed_here(self, item: Item, result: AnalyzerResult) -> None:
        """What this machine says of a medium that is checked; it has been delivered."""
        if item.name in self._checked:
            self._here[item.name] = result
            self._judge(item)

    def choose(self, in_flight: Collection[Item]) -> None:
        """Have one computed here, unless that is going on, or none is needed, or there is none."""
        if self.is_trusted or self._checked or self.why_not:
            return
        candidates = sorted([*in_flight, *(item for item, _ in self._held)], key=_work)
        if candidates:
            self._check(self._chance.choice(candidates[: (len(candidates) + 1) // 2]))

    def close(self) -> None:
        """The place is gone, but did not lie: what it has answered counts if it proves right."""
        self._is_closed = True
        for item in list(self._checked.values()):
            if item.name not in self._there:
                self._void(item)
        self.choose(())

    def distrust(self, why: str) -> None:
        """Nothing of it counts that has not been handed out yet."""
        self.why_not = why
        for item in list(self._checked.values()):
            self._void(item)
        held, self._held = self._held, []
        self._court.to_queue([item for item, _ in held])

    def _hand_out(self, item: Item, result: AnalyzerResult) -> None:
        if self._chance.random() < self._share:
            self._there[item.name] = result
            self._check(item)
        else:
            self.relied_on.append(result.media_id)
            self._court.deliver(result)

    def _check(self, item: Item) -> None:
        for place, (held, result) in enumerate(self._held):
            if held is item:
                self._there[item.name] = result
                del self._held[place]
                break
        self._checked[item.name] = item
        item.trial = self
        self._court.to_here(item)

    def _judge(self, item: Item) -> None:
        here, there = self._here.get(item.name), self._there.get(item.name)
        if here is None or there is None:
            return
        self._void(item)
        if here.rows is not None and there.rows is not None:
            why = self._disagreement(here, there, item.medium)
            if why is not None:
                self.distrust(why)
                return
            self._empty += here.rows.num_rows == 0
            if here.rows.num_rows or self._empty >= _EMPTY_ENOUGH:
                self._trust()
        if self._is_closed:
            self.choose(())

    def _trust(self) -> None:
        self.is_trusted = True
        held, self._held = self._held, []
        for item, result in held:
            self._hand_out(item, result)

    def _void(self, item: Item) -> None:
        for known in (self._checked, self._here, self._there):
            known.pop(item.name, None)
        item.trial = None


def _work(item: Item) -> float:
    return item.medium.frame_count * _FRAME_S + item.medium.audio_s
