"""Renting for a command: decided once for all of its runs, told on the screen, given back however it ends."""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.execution.wish import Wish
    from media_pipeline.storage.sources import KnownMedium


class Placed:
    """Where the runs of a command compute, and in the end what that took."""

    def __init__(
        self, tags: Mapping[str, str], facts: dict[str, Any] | None, no_run_follows: Callable[[], None] | None = None
    ) -> None:
        self.tags = tags
        self.no_run_follows = no_run_follows  # to be told when the last run begins
        self.facts = facts  # None: only this machine was asked for


@contextlib.contextmanager
def placed(
    pipeline: Pipeline,
    media: Sequence[KnownMedium],
    stages: Collection[str],
    wish: Wish,
    console: Console,
    *,
    force: bool = False,
) -> Iterator[Placed]:
    """Decides, rents where that is not this machine, and gives back at the end, also at Ctrl-C and SIGTERM."""
    if wish.target == "cpu":
        yield Placed({}, None)
        return

    def say(line: str) -> None:
        console.print(f"[cyan]{escape(line)}[/]", highlight=False, soft_wrap=True)

    with _terminated_as_interrupted():
        try:
            decision = pipeline.placements.place(
                media, stages, wish, run_id=f"command-{uuid.uuid4().hex[:12]}", say=say, is_last=False, force=force
            )
            facts = decision.facts(pipeline.settings.gpu.eur_per_usd)
            found = Placed(decision.tags(), facts, pipeline.placements.no_run_follows)
            if decision.target == "cpu" and wish.target == "auto":
                say(f"on this machine: {decision.reason}")
            yield found
        finally:
            pipeline.give_back()
            rented = pipeline.placements.rented
            if rented is not None:
                say(f"rented: {rented['summary']}")
        if found.facts is not None:
            found.facts["rented"] = rented


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a process without a word; a machine that costs money has to be given back first."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
