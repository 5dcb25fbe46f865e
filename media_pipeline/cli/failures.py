"""Failed files on the screen: one block per reason, so that forty of a kind do not bury the one that matters."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

NAMES_PER_REASON = 8


def print_failures(console: Console, failures: Iterable[tuple[str, str, str]], *, show_all: bool = False) -> None:
    """Failures are (file, stage, reason)."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, stage, reason in failures:
        by_reason.setdefault((stage, reason), []).append(name)
    for (stage, reason), names in sorted(by_reason.items(), key=lambda item: (len(item[1]), item[0])):
        console.print(f"[red]failed[/] in {stage}: {escape(reason)}", highlight=False, soft_wrap=True)
        shown = sorted(names) if show_all else sorted(names)[:NAMES_PER_REASON]
        for name in shown:
            console.print(f"    {escape(name)}", highlight=False, soft_wrap=True)
        if len(shown) < len(names):
            console.print(f"    … and {len(names) - len(shown)} more: `media-pipeline status --all`", highlight=False)
