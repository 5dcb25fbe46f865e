"""`media-pipeline search`: find moments in what was read and said."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from media_pipeline.results.search import Hit, search_text


@click.command()
@click.option("--text", required=True, metavar="T", help='Words or a question; "in quotes" for the exact words.')
@click.option("-k", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Hits at most.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def search(obj: Any, text: str, count: int, format_: str) -> None:
    """Find moments by what stands on the screen or is said there, by word and by meaning."""
    hits = search_text(obj.tables, obj.layout, obj.settings, obj.models, text, count)
    if format_ == "json":
        click.echo(json.dumps([_plain(hit) for hit in hits], indent=2, ensure_ascii=False))
    elif hits:
        Console().print(_table(hits))
    else:
        click.echo(_nothing(obj), err=True)


def _table(hits: list[Hit]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("MEDIUM", overflow="fold", max_width=32)
    table.add_column("AT", justify="right", no_wrap=True)
    table.add_column("FOUND", overflow="fold", ratio=1)
    table.add_column("SCORE", justify="right", no_wrap=True)
    table.add_column("BY", no_wrap=True)
    table.add_column("IN", no_wrap=True)
    for hit in hits:
        snippet = Text(_printable(hit.snippet))
        for start, end in hit.matches:
            snippet.stylize("bold yellow", start, end)
        table.add_row(Text(_printable(hit.name)), moment(hit), snippet, f"{hit.score:.2f}", hit.why, hit.source)
    return table


def moment(hit: Hit) -> str:
    """`m:ss`, `h:mm:ss` from an hour on; a dash where there is no time."""
    if hit.pts_s is None or hit.kind == "image":
        return "-"
    minutes, seconds = divmod(int(hit.pts_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _printable(text: str) -> str:
    """One character for one, so that the matches stay where they are; foreign text never commands the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _plain(hit: Hit) -> dict[str, Any]:
    return {**asdict(hit), "matches": [list(span) for span in hit.matches]}


def _nothing(obj: Any) -> str:
    tables = obj.tables
    if not tables.exists("media") or tables.read("media", columns=["media_id"]).num_rows == 0:
        return "this home has no media yet; take some in with `media-pipeline analyze PATH`"
    read = [name for name in ("ocr", "transcript") if tables.files(name)]
    if not read:
        return "no text was read or heard in these media yet; see `media-pipeline status`"
    return "nothing found; try other words, or fewer"
