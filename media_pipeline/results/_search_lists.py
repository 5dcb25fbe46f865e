"""Ranked lists of moments, each read on for as long as a search wants more of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from media_pipeline.results._search_hits import Found, Key, Why, fused
from media_pipeline.results._search_indexes import Look


@dataclass(frozen=True, slots=True)
class Part:
    """What one look into a list finds."""

    moments: Sequence[tuple[Key, Found]]  # best first
    is_cut: bool  # whether there may be more of them


@dataclass(slots=True)
class RankedList:
    """One way to answer a question.

    Args:
        read: the moments in their order, as far as a look goes
    """

    why: Why
    read: Callable[[Look], Part]
    count: int = 0  # moments that were read so far
    is_cut: bool = True


@dataclass(slots=True)
class Answer:
    """What answers one question: the moments of all its lists, as far as they were read."""

    lists: Sequence[RankedList]
    found: dict[Key, Found] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        return any(one.is_cut for one in self.lists)

    def read_on(self, look: Look) -> None:
        """Adds what the lists hold beyond what was read. Ranks go on, and moments found before keep theirs."""
        fresh: dict[Key, Found] = {}
        for one in self.lists:
            if not one.is_cut:
                continue
            part = one.read(look)
            for rank, (key, moment) in enumerate(part.moments, start=one.count + 1):
                if key not in self.found:
                    fresh.setdefault(key, moment).ranks[one.why] = rank
            one.count, one.is_cut = one.count + len(part.moments), part.is_cut
        self.found |= fresh


def read_on(answers: Sequence[Answer], look: Look) -> dict[Key, Found]:
    """The moments that are found now and were not before, with the scores they have among all of them."""
    known = {key for answer in answers for key in answer.found}
    for answer in answers:
        answer.read_on(look)
    return {key: moment for key, moment in fused([a.found for a in answers]).items() if key not in known}
