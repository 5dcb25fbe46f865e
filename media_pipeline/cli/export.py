"""`export`: what is known of media, in the formats of other programs."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError
from media_pipeline.results.exports import DOCUMENTS, FORMATS, SUBTITLES, TABLES

if TYPE_CHECKING:
    from media_pipeline.results.exports._document import Format
    from media_pipeline.results.exports._library import Library
    from media_pipeline.results.exports.run import Missing, OnMedia
    from media_pipeline.results.exports.tabular import TabularFormat

EXIT_SOME_MISSING = 3
FOLDER = Path("export")  # where several files go when nothing else is said
STDOUT = Path("-")
ONE_FILE = {"json": (".ndjson", ".jsonl"), "csv": (".csv",), "parquet": (".parquet",), "coco": (".json",)}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says."""

    format: str
    output: Path | None
    into_folder: bool  # the output is a folder, or is to be one
    tables: tuple[str, ...] | None
    boxes: tuple[str, ...]
    frames: bool
    embeddings: bool
    defuse: bool


@click.command()
@click.argument("media", nargs=-1, metavar="[MEDIUM]...")
@click.option("--all", "all_", is_flag=True, help="Every medium of this home.")
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True)
@click.option("-o", "--output", type=click.Path(), help="File or folder; `-` is standard output.")
@click.option("--tables", help="json, csv, parquet: only these views, separated by commas.")
@click.option("--boxes", help="coco: of poses, faces, nsfw, logos, ocr; by default all but ocr.")
@click.option("--frames", is_flag=True, help="coco: write the pictures too.")
@click.option("--embeddings", is_flag=True, help="json, csv, parquet: with the vectors.")
@click.option("--defuse/--no-defuse", default=True, show_default=True, help="csv: no text is a formula.")
@click.pass_obj
def export(
    app: App,
    media: tuple[str, ...],
    all_: bool,
    format_: str,
    output: str | None,
    tables: str | None,
    boxes: str | None,
    frames: bool,
    embeddings: bool,
    defuse: bool,
) -> int:
    """Write what is known of each MEDIUM (media_id, 8 digits of it or more, or partition key), or of all.

    \b
    media-pipeline export 3fa9c1d2 --format srt > talk.srt
    media-pipeline export --all --format parquet -o results/

    Exit code 3: some of the media named have nothing to export in this format; they are listed.
    """
    from media_pipeline.results.exports._library import Library
    from media_pipeline.results.media import resolve_all

    if bool(media) == all_:
        raise click.UsageError("name the media, or give --all")
    target = None if output is None else Path(output)
    into_folder = target is not None and (target.is_dir() or str(output).endswith(os.sep))
    wish = Wish(format_, target, into_folder, _list(tables), _boxes(boxes, format_), frames, embeddings, defuse)
    _refuse_idle_options(wish)
    chosen = None if all_ else resolve_all(app.tables, media)
    views, limit = _views(wish), app.settings.sql.max_memory_bytes
    with Library(app.catalog(), chosen, tables=views, embeddings=embeddings, max_memory_bytes=limit) as library:
        if all_ and not library.media:
            click.echo("this home has no media yet; take some in with `media-pipeline analyze PATH`", err=True)
        missing = _write(app, library, wish)
    return _told(missing, all_)


def _write(app: App, library: Library, wish: Wish) -> Missing:
    if wish.format in DOCUMENTS:
        return _documents(library, wish)
    if wish.format in TABLES:
        _tables(library, wish)
        return []
    return _coco(app, library, wish)


# -- formats -----------------------------------------------------------------------------------------------------


def _documents(library: Library, wish: Wish) -> Missing:
    from media_pipeline.results.exports.run import stream_documents, write_documents

    single = library.media == 1 and library.selection is not None
    target = wish.output or (STDOUT if single else FOLDER)
    lines = target.suffix in ONE_FILE.get(wish.format, ())
    to_file = lines or (single and not wish.into_folder)
    if not to_file and target.suffix == f".{wish.format}":
        raise UsageError(f"several media do not fit in {target}", _remedy(wish))
    if target != STDOUT and not to_file:
        with _folder(library, wish, target) as folder, _progress(library.media) as on_media:
            return write_documents(library, _document_format(wish, lines=False), folder, on_media)
    if wish.format in SUBTITLES and not single:
        raise UsageError("subtitles of several media do not fit in one file", _remedy(wish))
    format_ = _document_format(wish, lines=lines or not single)
    with _progress(library.media) as on_media:
        return _to(target, lambda sink: stream_documents(library, format_, sink, on_media))


def _remedy(wish: Wish) -> str:
    return "name a folder with -o" + (", or a file that ends in .ndjson" if wish.format == "json" else "")


def _document_format(wish: Wish, *, lines: bool) -> Format:
    if wish.format in SUBTITLES:
        from media_pipeline.results.exports.subtitles import Subtitles

        return Subtitles(wish.format)
    from media_pipeline.results.exports.everything import Everything

    return Everything(lines=lines)


def _tables(library: Library, wish: Wish) -> None:
    from media_pipeline.results.exports.run import stream_table, write_tables

    views = sorted(library.schemas)
    target = wish.output or (STDOUT if len(views) == 1 and wish.format == "csv" else FOLDER)
    if target != STDOUT and target.suffix not in ONE_FILE[wish.format]:
        total = library.media * sum(view in library.views for view in views)
        with _folder(library, wish, target) as folder, _progress(total) as on_media:
            write_tables(library, _table_format(wish), folder, on_media)
        return
    if len(views) != 1:
        raise UsageError("several tables do not fit in one file", "name a folder with -o, or one view with --tables")
    if wish.format == "parquet" and target == STDOUT and sys.stdout.isatty():
        raise UsageError("Parquet is binary and would garble the terminal", "add -o FILE or pipe it somewhere")
    with _progress(library.media) as on_media:
        _to(target, lambda sink: stream_table(library, _table_format(wish), views[0], sink, on_media))


def _table_format(wish: Wish) -> TabularFormat:
    from media_pipeline.results.exports.tabular import Csv, Parquet

    return Csv(defuse=wish.defuse) if wish.format == "csv" else Parquet()


def _coco(app: App, library: Library, wish: Wish) -> Missing:
    from media_pipeline.execution.decoded import DecodedMedia
    from media_pipeline.results.exports._pictures import Frames
    from media_pipeline.results.exports.coco import Coco
    from media_pipeline.results.exports.run import stream_coco

    single = library.media == 1 and library.selection is not None
    target = wish.output or (STDOUT if single and not wish.frames else FOLDER)
    if target != STDOUT and target.suffix not in ONE_FILE["coco"]:
        target = target / "annotations.json"
    if wish.frames and target == STDOUT:
        raise UsageError("pictures do not go to standard output", "name a folder with -o")
    folder = None if target == STDOUT else target.parent
    with closing(DecodedMedia(app.pipeline.cache, app.settings)) as decoded, _progress(library.media) as on_media:
        frames = Frames(folder / "images", decoded, app.pipeline.sources) if wish.frames and folder else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        format_ = Coco(wish.boxes, frames, spool=folder)
        _to(target, lambda sink: stream_coco(library, format_, sink, on_media))
    if folder is not None:
        click.echo(f"written to {target}", err=True)
    return frames.failed if frames else []


# -- where it goes -----------------------------------------------------------------------------------------------


def _to(target: Path, write: Callable[[IO[bytes]], Missing | None]) -> Missing:
    """Standard output, or a file that is whole or not there."""
    from media_pipeline.results.exports.run import write_file

    if target != STDOUT:
        return write_file(target, write)
    missing = write(sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return missing or []


@contextmanager
def _folder(library: Library, wish: Wish, path: Path) -> Iterator[Any]:
    from media_pipeline.results.exports._target import Folder

    with Folder(
        path, wish.format, [library.state, library.selection, sorted(library.schemas), wish.embeddings, wish.defuse]
    ) as folder:
        yield folder
    click.echo(f"written to {path}", err=True)


@contextmanager
def _progress(total: int) -> Iterator[OnMedia]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=total)
        yield lambda media: bar.advance(task, media)


def _told(missing: Missing, all_: bool) -> int:
    """Says what is missing. Of all media most never speak: they are counted, and no failure."""
    if all_:
        for reason, count in Counter(reason for _, reason in missing).most_common():
            click.echo(f"left out {count} {'medium' if count == 1 else 'media'}: {reason}", err=True)
        return 0
    for name, reason in missing:
        click.echo(f"{name}: {reason}", err=True)
    return EXIT_SOME_MISSING if missing else 0


# -- options -----------------------------------------------------------------------------------------------------


def _views(wish: Wish) -> tuple[str, ...] | None:
    """The views that the export reads; None: all."""
    if wish.format in SUBTITLES:
        return ("transcript", "media", "analyses")
    return ("frames", *wish.boxes) if wish.format == "coco" else wish.tables


def _list(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(name.strip() for name in given.split(",") if name.strip())


def _boxes(given: str | None, format_: str) -> tuple[str, ...]:
    from media_pipeline.results.exports.coco import DEFAULT_BOXES, SOURCES

    boxes = _list(given)
    if boxes is not None and format_ != "coco":
        raise UsageError(f"--boxes says nothing to {format_}", "leave it out")
    unknown = sorted(set(boxes or ()) - set(SOURCES))
    if unknown or boxes == ():
        raise UsageError(f"there are no boxes of {', '.join(unknown) or 'nothing'}", f"there are {', '.join(SOURCES)}")
    return boxes or DEFAULT_BOXES


def _refuse_idle_options(wish: Wish) -> None:
    """An option that would have no effect is a misunderstanding."""
    rows = ("json", *TABLES)
    for option, given, formats in (
        ("--tables", wish.tables is not None, rows),
        ("--embeddings", wish.embeddings, rows),
        ("--frames", wish.frames, ("coco",)),
        ("--no-defuse", not wish.defuse, ("csv",)),
    ):
        if given and wish.format not in formats:
            raise UsageError(f"{option} says nothing to {wish.format}", f"it is for {', '.join(formats)}")
