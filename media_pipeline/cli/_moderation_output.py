"""Verdicts, reasons and back-tests as people and scripts see them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from media_pipeline.cli._tables import print_table
from media_pipeline.wording import clock, printable

if TYPE_CHECKING:
    from media_pipeline.results._moderation_backtest import Backtest, Flip


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while media are gone through, where somebody watches."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=datetime.isoformat))


def reason_line(reason: Mapping[str, Any]) -> str:
    """`block  nudity: Explicit nudity is to be seen. (FEMALE_BREAST_EXPOSED, 0.83, 1:05, box 10 20 110 220)`."""
    score, pts_s = reason["score"], reason["pts_s"]
    box = [reason[name] for name in ("x1", "y1", "x2", "y2")]
    evidence = [
        printable(reason["found"] or ""),
        "" if score is None else f"{score:.2f}",
        "" if pts_s is None else f"at {clock(pts_s)}",
        "" if reason["frame_index"] is None else f"frame {reason['frame_index']}",
        "" if None in box else "box " + " ".join(f"{side:.0f}" for side in box),
    ]
    told = ", ".join(part for part in evidence if part)
    return f"{reason['severity']:<6}  {reason['rule']}: {printable(reason['text'])}" + (f" ({told})" if told else "")


def print_backtest(result: Backtest, against: str, names: Mapping[str, str], decided: Mapping[str, str]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    flips = sum(result.flips.values())
    console.print(f"{result.media} media, {flips} of them with another verdict")
    console.print(f"before: {printable(against)}, {result.before}; after: the rules in force, {result.after}\n")
    verdicts = ("allow", "review", "block")
    rows = [[v, str(result.verdicts_before[v]), str(result.verdicts_after[v])] for v in verdicts]
    print_table(("VERDICT", "BEFORE", "AFTER"), rows, right=("BEFORE", "AFTER"))
    changed = {name: hits for name, hits in sorted(result.rules.items()) if hits[0] != hits[1]}
    if changed:
        console.print()
        rows = [[name, *map(str, hits)] for name, hits in changed.items()]
        print_table(("RULE", "BEFORE", "AFTER"), rows, right=("BEFORE", "AFTER"))
    for (before, after), count in sorted(result.flips.items()):
        console.print(f"\n{before} -> {after}: {count}")
        for flip in result.examples[before, after]:
            stands = f", {decided[flip.media_id]} by decision of a person" if flip.media_id in decided else ""
            console.print(f"  {printable(names.get(flip.media_id, '?'))} ({flip.media_id[:12]}{stands})")
            for reason in flip.why:
                console.print(f"    {reason_line(reason)}")
        if count > len(result.examples[before, after]):
            console.print(f"  … and {count - len(result.examples[before, after])} more")


def plain_backtest(result: Backtest, names: Mapping[str, str], decided: Mapping[str, str]) -> dict[str, Any]:
    return {
        "media": result.media,
        "rules_before": result.before,
        "rules_after": result.after,
        "verdicts_before": dict(result.verdicts_before),
        "verdicts_after": dict(result.verdicts_after),
        "rules": {name: {"before": b, "after": a} for name, (b, a) in sorted(result.rules.items())},
        "flips": [
            {
                "before": before,
                "after": after,
                "count": count,
                "examples": [_plain_flip(flip, names, decided) for flip in result.examples[before, after]],
            }
            for (before, after), count in sorted(result.flips.items())
        ],
    }


def _plain_flip(flip: Flip, names: Mapping[str, str], decided: Mapping[str, str]) -> dict[str, Any]:
    facts = {"media_id": flip.media_id, "name": names.get(flip.media_id), "decided": decided.get(flip.media_id)}
    return {**facts, "reasons": list(flip.why)}
