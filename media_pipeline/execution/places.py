"""Workers elsewhere, and who provides them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker program can be started: a command that connects its three pipes with ours."""

    name: str  # for people: "worker process", "RTX 4090 of lease 3f2a91"
    command: tuple[str, ...]  # python -m … here, ssh … elsewhere
    environment: Mapping[str, str] | None = None  # of the command; None: this process's
    # Somebody else's machine: only frames and sound go there, under random ids, and its results are checked.
    is_foreign: bool = False
    machine: str | None = None  # what its costs are measured for; None: this machine


@dataclass(frozen=True, slots=True)
class FleetState:
    """What is there right now."""

    places: tuple[Place, ...]  # ready for work
    is_starting: bool  # more may come
    reason: str | None = None  # why there are none and none will come, for people
    waits: bool = False  # a limit of the budget is the reason, and what is left shall wait for a later run


class Fleet(Protocol):
    """Provides places during a run, and replaces those that are lost where it can. Safe for threads."""

    def state(self) -> FleetState: ...

    def wait(self, timeout_s: float) -> None:
        """Until the state has changed, or so long."""

    def moved(self, place: Place, sent_bytes: int, received_bytes: int) -> None:
        """So much more went there and came back: some hosts charge for it."""

    def lost(self, place: Place, why: str) -> None:
        """The worker there does not answer or cannot be trusted: it is given up, never offered again."""

    def close(self) -> None:
        """The work is done: machines are given back, or kept for a next run, as configured."""
