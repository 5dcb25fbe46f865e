"""`media-pipeline search`: find moments in what was read, said and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from media_pipeline.cli._asking import bounded
from media_pipeline.cli._search_output import print_json, print_table
from media_pipeline.results.search import Filter, Hit, Questions, Within, media_within, moment_of
from media_pipeline.results.search import search as ask
from media_pipeline.wording import printable

if TYPE_CHECKING:
    from media_pipeline.results._identity_kinds import Kind
    from media_pipeline.results._identity_samples import SampleTrack

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("query", required=False)
@click.option("--text", metavar="T", help='Words or a question; "in quotes" for the exact words. Same as QUERY.')
@click.option("--image", metavar="FILE", type=_FILE, help="A picture: what looks like it.")
@click.option("--like", metavar="MEDIUM", help="A medium of this home: what shows or says nearly the same.")
@click.option("--face", metavar="FILE", type=_FILE, help="A picture: where its largest face is to be seen.")
@click.option("--voice", metavar="FILE", type=_FILE, help="A recording: where its main voice is to be heard.")
@click.option("--nth", type=click.IntRange(1), default=1, help="With --face, --voice: the second largest, third …")
@click.option("--kind", "kinds", type=click.Choice(["image", "video", "audio"]), multiple=True, help="Only these.")
@click.option("--since", metavar="WHEN", help="Recorded (or, where unknown, taken in) from then on: 2026-03-31, 7d.")
@click.option("--until", metavar="WHEN", help="Recorded (or, where unknown, taken in) until then, that day included.")
@click.option(
    "--person", "persons", metavar="ID", multiple=True, help="Only where this person is seen; a name will do."
)
@click.option("--voice-of", "voices", metavar="ID", multiple=True, help="Only where this voice is heard, likewise.")
@click.option("--where", metavar="SQL", help='Only media for which this is true: "duration_s > 60 AND width >= 1920".')
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="With a text: describe frames too.")
@click.option("-k", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Moments at most.")
@click.option("--html", metavar="FILE", type=_FILE, help="Write the hits with pictures into one page.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def search(
    obj: Any,
    query: str | None,
    text: str | None,
    image: Path | None,
    like: str | None,
    face: Path | None,
    voice: Path | None,
    nth: int,
    kinds: tuple[str, ...],
    since: str | None,
    until: str | None,
    persons: tuple[str, ...],
    voices: tuple[str, ...],
    where: str | None,
    pictures: bool,
    count: int,
    html: Path | None,
    format_: str,
) -> None:
    """Find moments by what stands on the screen, is said there, or is to be seen or heard.

    Several questions at once find the media that answer all of them first. Filters alone list the newest media that
    pass.
    """
    if query is not None and text is not None:
        raise click.UsageError("give the text once: as QUERY or as --text")
    asked = Questions(text=query if text is None else text, image=image, like=like, pictures=pictures)
    now = datetime.now(UTC)
    wanted = Filter(
        kinds,
        moment_of(since, now) if since is not None else None,
        moment_of(until, now, end=True) if until is not None else None,
        persons,
        voices,
        where,
    )
    if not (asked or face or voice or wanted):
        raise click.UsageError("give a text, --image, --like, --face, --voice, or a filter")
    within = _within(obj, wanted)
    asked = replace(asked, face=_sample(obj, "person", face, nth), voice=_sample(obj, "voice", voice, nth))
    hits = ask(obj.tables, obj.layout, obj.settings, obj.models, asked, count, within=within)
    if format_ == "json":
        print_json(hits)
    elif hits:
        print_table(hits)
    else:
        click.echo(_nothing(obj, asked, within), err=True)
    if html is not None:
        _write(obj, html, hits, _title(asked, face, voice, wanted))


def _within(obj: Any, wanted: Filter) -> Within | None:
    if not wanted:
        return None
    limits = obj.settings.sql
    if wanted.where is None:
        return media_within(wanted, obj.tables, obj.layout, None, limits)
    catalog = obj.catalog()
    with bounded(limits):
        return media_within(wanted, obj.tables, obj.layout, catalog, limits)


def _sample(obj: Any, kind_name: str, file: Path | None, nth: int) -> SampleTrack | None:
    """The face or voice that is meant; where there are several, who else could be."""
    if file is None:
        return None
    from media_pipeline.results.identities import KINDS
    from media_pipeline.results.search import everybody_in

    kind: Kind = next(kind for kind in KINDS if kind.name == kind_name)
    there = everybody_in(kind, file, obj.settings, obj.models)
    what = "faces" if kind_name == "person" else "voices"
    if nth > len(there):
        raise click.UsageError(f"{printable(file.name)} has {len(there)} {what}: --nth {nth} is none of them")
    if len(there) > 1:
        listed = (
            f"{number} {'at ' + ','.join(f'{x:.0f}' for x in one.box) if one.box else f'{one.seconds:.1f} s'}"
            for number, one in enumerate(there, start=1)
        )
        click.echo(
            f"{printable(file.name)} has {len(there)} {what}: {'; '.join(listed)}. This is number {nth}; --nth takes "
            "another",
            err=True,
        )
    return there[nth - 1].track


def _write(obj: Any, file: Path, hits: Sequence[Hit], title: str) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from media_pipeline.results.search_page import write_page

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("pictures", total=len({hit.media_id for hit in hits}))
        size = write_page(file, hits, title, obj.layout, obj.settings, lambda: progress.advance(task))
    click.echo(f"{file}: {size / 1000:.0f} kB", err=True)


def _title(asked: Questions, face: Path | None, voice: Path | None, wanted: Filter) -> str:
    parts = [asked.text] if asked.text is not None else []
    parts += [f"like {one.name}" for one in (asked.image,) if one is not None]
    parts += [f"like {asked.like}"] if asked.like is not None else []
    parts += [f"face of {face.name}"] if face is not None else []
    parts += [f"voice of {voice.name}"] if voice is not None else []
    parts += [*wanted.kinds, *wanted.persons, *wanted.voices]
    parts += [f"since {wanted.since:%Y-%m-%d}"] if wanted.since else []
    parts += [f"until {wanted.until:%Y-%m-%d}"] if wanted.until else []
    parts += [wanted.where] if wanted.where else []
    return " · ".join(parts)


def _nothing(obj: Any, asked: Questions, within: Within | None) -> str:
    tables = obj.tables
    if not tables.files("media"):
        return "this home has no media yet; take some in with `media-pipeline analyze PATH`"
    if within is not None and not within.media_ids:
        return "no medium passes the filter"
    if asked.face is not None or asked.voice is not None:
        return "nobody like this was found"
    if asked.text is None:
        return "nothing like it was found"
    if not any(tables.files(name) for name in ("ocr", "transcript", "image_embeddings")):
        return "no text was read or heard in these media yet; see `media-pipeline status`"
    return "nothing found; try other words, or fewer"
