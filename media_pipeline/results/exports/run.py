"""Writing an export: as a stream, as one file, or as a folder in which an interrupted export goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

from media_pipeline.results.exports._document import Document, Format
from media_pipeline.results.exports._library import Library
from media_pipeline.results.exports._target import Folder, file_name, whole_file
from media_pipeline.results.exports.coco import Coco
from media_pipeline.results.exports.tabular import TabularFormat

OnMedia = Callable[[int], None]  # so many more media are done
Missing = list[tuple[str, str]]  # partition keys of media of which there is nothing to write, with the reason


def stream_documents(library: Library, format_: Format, sink: IO[bytes], on_media: OnMedia) -> Missing:
    """All documents one after the other; returns what is missing."""
    missing: Missing = []
    for portion in library.portions():
        for document in format_.documents(library, portion):
            if document.text is None:
                missing.append(_without(document))
                continue
            for piece in document.text:
                sink.write(piece.encode())
        on_media(len(portion.media))
    return missing


def write_documents(library: Library, format_: Format, folder: Folder, on_media: OnMedia) -> Missing:
    """One file per medium, named by its partition key; returns what is missing.

    Raises:
        DiskFull, UsageError: a file cannot be written; those before it are there.
    """
    missing: Missing = []
    done = library.media - sum(len(portion.media) for portion in library.portions(folder.finished))
    on_media(done)
    for portion in library.portions(folder.finished):
        for document in format_.documents(library, portion):
            medium = document.medium
            if document.text is None:
                missing.append(_without(document))
                continue
            name = file_name(medium.partition_key, medium.media_id)
            with whole_file(folder.path / f"{name}{format_.suffix}") as sink:
                for piece in document.text:
                    sink.write(piece.encode())
        folder.finish(portion.media[-1].media_id)
        on_media(len(portion.media))
    return missing


def stream_table(library: Library, format_: TabularFormat, view: str, sink: IO[bytes], on_media: OnMedia) -> None:
    """One view as one file."""
    with closing(format_.write(library, view, sink)) as written:  # a writer that is not finished is closed here
        for portion in written:
            on_media(len(portion.media))


def write_tables(library: Library, format_: TabularFormat, folder: Folder, on_media: OnMedia) -> None:
    """One file per view.

    Raises:
        DiskFull, UsageError: a file cannot be written; those before it are there.
    """
    finished = folder.finished
    for view in sorted(library.schemas):
        if view <= finished:
            on_media(library.media if view in library.views else 0)
            continue
        with whole_file(folder.path / f"{view}{format_.suffix}") as sink:
            stream_table(library, format_, view, sink, on_media)
        folder.finish(view)


def stream_coco(library: Library, format_: Coco, sink: IO[bytes], on_media: OnMedia) -> None:
    """One COCO file."""
    with closing(format_.write(library, sink)) as written:
        for portion in written:
            on_media(len(portion.media))


def write_file(path: Path, write: Callable[[IO[bytes]], Missing | None]) -> Missing:
    """One file, whole or not at all; none where there is nothing to write.

    Raises:
        DiskFull, UsageError: it cannot be written.
    """
    with whole_file(path) as sink:
        return write(sink) or []


def _without(document: Document) -> tuple[str, str]:
    return document.medium.partition_key, document.why_not or "there is nothing to write"
