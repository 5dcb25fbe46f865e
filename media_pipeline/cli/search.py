"""`media-pipeline search`: find moments in what was read, said and shown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from media_pipeline.results.search import Hit, search_image, search_like, search_text


@click.command()
@click.option("--text", metavar="T", help='Words or a question; "in quotes" for the exact words.')
@click.option("--image", metavar="F", type=click.Path(path_type=Path), help="A picture: what looks like it.")
@click.option("--like", metavar="MEDIA_ID", help="A medium of this home: what shows or says nearly the same.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="With --text: describe frames too.")
@click.option("-k", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Hits at most.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def search(
    obj: Any, text: str | None, image: Path | None, like: str | None, pictures: bool, count: int, format_: str
) -> None:
    """Find moments by what stands on the screen, is said there, or is to be seen."""
    if sum(given is not None for given in (text, image, like)) != 1:
        raise click.UsageError("give one of --text, --image and --like")
    home = (obj.tables, obj.layout, obj.settings, obj.models)
    if text is not None:
        hits = search_text(*home, text, count, pictures=pictures)
    elif image is not None:
        hits = search_image(*home, image, count)
    else:
        assert like is not None
        hits = search_like(*home, like, count)
    if format_ == "json":
        click.echo(json.dumps([_plain(hit) for hit in hits], indent=2, ensure_ascii=False))
    elif hits:
        Console().print(_table(hits))
    else:
        click.echo(_nothing(obj, text is not None), err=True)


def _table(hits: list[Hit]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("MEDIUM", overflow="fold", max_width=32)
    table.add_column("AT", justify="right", no_wrap=True)
    table.add_column("FOUND", overflow="fold", ratio=1)
    table.add_column("SCORE", justify="right", no_wrap=True)
    table.add_column("BY", no_wrap=True)
    table.add_column("IN", no_wrap=True)
    for hit in hits:
        snippet = Text(_printable(hit.snippet)) if hit.snippet is not None else Text(_place(hit), "dim")
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


def _place(hit: Hit) -> str:
    return "the picture" if hit.kind == "image" else f"frame {hit.frame_index}"


def _printable(text: str) -> str:
    """One character for one, so that the matches stay where they are; foreign text never commands the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _plain(hit: Hit) -> dict[str, Any]:
    return {**asdict(hit), "matches": [list(span) for span in hit.matches]}


def _nothing(obj: Any, asked_for_text: bool) -> str:
    tables = obj.tables
    if not tables.exists("media") or tables.read("media", columns=["media_id"]).num_rows == 0:
        return "this home has no media yet; take some in with `media-pipeline analyze PATH`"
    if not asked_for_text:
        return "nothing like it was found"
    if not any(tables.files(name) for name in ("ocr", "transcript", "image_embeddings")):
        return "no text was read or heard in these media yet; see `media-pipeline status`"
    return "nothing found; try other words, or fewer"
