"""The hits of `search` for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from media_pipeline.results.search import Hit, by_medium
from media_pipeline.results.search_page import time_of
from media_pipeline.wording import printable


def print_json(hits: Sequence[Hit]) -> None:
    """A list of moments, best first; those of one medium have the same media_id."""
    click.echo(json.dumps([_plain(hit) for hit in hits], indent=2, ensure_ascii=False))


def print_table(hits: Sequence[Hit]) -> None:
    """Each medium once, its moments below it."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("AT", justify="right", no_wrap=True)
    table.add_column("FOUND", overflow="fold", ratio=1)
    table.add_column("SCORE", justify="right", no_wrap=True)
    table.add_column("BY", no_wrap=True)
    table.add_column("IN", no_wrap=True)
    for group in by_medium(hits):
        name = Text(printable(group[0].name), "bold")
        table.add_row("", name + Text(f"  {group[0].kind} {group[0].media_id[:12]}", "dim"), "", "", "")
        for hit in group:
            table.add_row(time_of(hit) or "-", _found(hit), f"{hit.score:.2f}", hit.why, hit.source)
    Console().print(table)


def _found(hit: Hit) -> Text:
    if hit.snippet is None:
        return Text(printable(hit.person) if hit.person else _place(hit), "" if hit.person else "dim")
    text = Text(printable(hit.snippet))
    for start, end in hit.matches:
        text.stylize("bold yellow", start, end)
    return text


def _place(hit: Hit) -> str:
    if hit.source in ("face", "voice"):
        return f"{'somebody' if hit.person_id is None else hit.person_id}, no name yet"
    if hit.source == "medium":
        return "the medium"
    return "the picture" if hit.kind == "image" else f"frame {hit.frame_index}"


def _plain(hit: Hit) -> dict[str, Any]:
    return {**asdict(hit), "matches": [list(span) for span in hit.matches]}
