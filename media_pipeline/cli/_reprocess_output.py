"""How `reprocess` shows a plan, a comparison and what was done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from media_pipeline.execution.comparison import Difference, Example
    from media_pipeline.execution.expected import Expected, GpuPrice
    from media_pipeline.execution.recompute import Plan

_ROWS_AT_A_TIME = 10_000
_MAX_REASONS = 4
_MAX_CHARS = 160


def write_plan(plan: Plan, parts: Sequence[Expected], price: GpuPrice | None) -> None:
    """One JSON object; the pairs of a large library are written as they come."""
    facts = {
        "count": plan.pairs.num_rows,
        "media": plan.media,
        "examined_media": plan.examined,
        "cpu_minutes": total_minutes(parts),
        "unmeasured": [part.analyzer for part in parts if part.cpu_minutes is None],
        "gpu_usd": None if price is None else round(price.usd, 4),
        "gpu_basis": None if price is None else price.basis,
        "analyzers": [
            {
                "analyzer": part.analyzer,
                "pairs": part.pairs,
                "restorable": part.restorable,
                "cpu_minutes": part.cpu_minutes,
                "basis": part.basis,
                "reasons": dict(_reasons(plan, part.analyzer)),
            }
            for part in parts
        ],
    }
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2).removesuffix("\n}") + ',\n  "pairs": [', nl=False)
    columns = ["media_id", "analyzer", "reason", "restorable"]
    separator = "\n    "
    for start in range(0, plan.pairs.num_rows, _ROWS_AT_A_TIME):
        rows = plan.pairs.slice(start, _ROWS_AT_A_TIME).select(columns).to_pylist()
        click.echo(separator + ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows), nl=False)
        separator = ",\n    "
    click.echo("\n  ]\n}" if plan.pairs.num_rows else "]\n}")


def print_plan(plan: Plan, parts: Sequence[Expected], price: GpuPrice | None) -> None:
    console = Console()
    if not parts:
        console.print(f"Nothing is stale: all results of {plan.examined} media are current.", highlight=False)
        return
    table = Table(box=None, header_style="bold")
    for name, justify in (("analyzer", "left"), ("pairs", "right"), ("kept", "right"), ("CPU min", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("why", overflow="fold")
    for part in parts:
        minutes = "?" if part.cpu_minutes is None else f"{part.cpu_minutes:.1f}"
        reasons = _reasons(plan, part.analyzer)
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons[:_MAX_REASONS])
        more = f"; and {len(reasons) - _MAX_REASONS} other reasons" if len(reasons) > _MAX_REASONS else ""
        table.add_row(part.analyzer, str(part.pairs), str(part.restorable or ""), minutes, Text(told + more))
    console.print(table)
    total = total_minutes(parts)
    unmeasured = [part.analyzer for part in parts if part.cpu_minutes is None]
    console.print(
        f"{plan.pairs.num_rows} results of {plan.media} media are stale"
        f" ({plan.examined} examined); about {total:.1f} CPU minutes"
        + (f", without {', '.join(unmeasured)}: never measured here" if unmeasured else ""),
        highlight=False,
        soft_wrap=True,
    )
    if price is not None:
        console.print(f"on a GPU: {price.usd:.2f} USD ({price.basis})", highlight=False, soft_wrap=True)


def total_minutes(parts: Sequence[Expected]) -> float:
    """Of what was measured."""
    return sum(part.cpu_minutes for part in parts if part.cpu_minutes is not None)


def _reasons(plan: Plan, analyzer: str) -> list[tuple[str, int]]:
    """The most frequent first."""
    found = [(reason, count) for (name, reason), count in plan.reasons.items() if name == analyzer]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def print_differences(console: Console, differences: Sequence[Difference]) -> None:
    if not differences:
        console.print("Nothing is stale: there is nothing to compare.")
        return
    table = Table(box=None, header_style="bold")
    table.add_column("analyzer")
    for name in ("before", "after", "same", "changed", "gained", "lost", "failed"):
        table.add_column(name, justify="right")
    for d in differences:
        counts = (d.before, d.after, d.same, d.changed, d.gained, d.lost, len(d.failed))
        table.add_row(d.analyzer, *map(str, counts))
    console.print(table)
    for d in differences:
        for example in d.examples:
            console.print(Text(f"{d.analyzer} {example.change}: {_told(example)}"), soft_wrap=True)
        for media_id, reason in sorted(d.failed.items()):
            console.print(Text(f"{d.analyzer} fails now on {media_id[:12]}: {reason}"), soft_wrap=True)
    console.print("Rows of a sample; nothing was replaced.")


def _told(example: Example) -> str:
    rows = [dict(row) for row in (example.before, example.after) if row]
    medium = str(rows[0]["media_id"])[:12]
    told = [json.dumps({**row, "media_id": medium}, ensure_ascii=False)[:_MAX_CHARS] for row in rows]
    return "  ->  ".join(told)


def print_done(console: Console, done: dict[str, Any]) -> None:
    console.print(
        f"{done['reprocessed']} media: {done['computed_pairs']} results computed,"
        f" {done['restored_pairs']} put back from before, {done['failed']} media failed",
        highlight=False,
        soft_wrap=True,
    )
