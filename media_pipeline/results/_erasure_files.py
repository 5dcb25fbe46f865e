"""Erasing files: the user's own in watched folders, our originals, the cache, and what killed processes left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from media_pipeline.errors import UsageError
from media_pipeline.media.frames import THUMBNAIL_FILE
from media_pipeline.media.originals import Originals
from media_pipeline.results._erasure_journal import Medium
from media_pipeline.storage.sightings import ERASED

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

WATCHED, ALL, NONE = "watched", "all", "none"


def own_files(pipeline: Pipeline, media: Iterable[Medium], which: str) -> tuple[list[tuple[Path, str]], list[Path]]:
    """The user's files of these media, each with its media_id: those that go, and those that stay.

    Only a file whose content is the medium's counts; whatever lies at a path by now is nobody's business. A link to one
    counts as well, and with it the file it means. That file goes only where it is watched or the user named the link:
    whoever can write to a watched folder could link files there that are not his.
    """
    media = list(media)
    roots = [Path(os.path.realpath(folder)) for folder in pipeline.settings.watched]
    home = Path(os.path.realpath(pipeline.layout.home))
    candidates = dict.fromkeys([*_known_places(media), *_lying_about(roots, media)])
    places = [(path, medium) for path, medium in candidates if _holds(path, medium)]
    links = [(path, medium) for path, medium in places if path.is_symlink()]
    named = {path for path, _ in places} | {_meant(link) for link, _ in links if not _is_watched(link, roots)}
    going: list[tuple[Path, str]] = []
    staying: list[Path] = []
    for path, medium in dict.fromkeys([*places, *((_meant(link), medium) for link, medium in links)]):
        is_watched = _is_watched(path, roots)
        if (which == ALL and path in named) or (which == WATCHED and is_watched):
            going.append((path, medium.media_id))
        elif path in named or is_watched or not path.is_relative_to(home):  # a link into the home means what is ours
            staying.append(path)
    return going, staying


def _known_places(media: Iterable[Medium]) -> Iterator[tuple[Path, Medium]]:
    for medium in media:
        for text in (*medium.paths, *([medium.stored] if medium.stored else [])):
            yield Path(text), medium


def _lying_about(roots: Sequence[Path], media: Iterable[Medium]) -> Iterator[tuple[Path, Medium]]:
    """Files of a medium's size in watched folders: nobody has looked at them yet, or the home was moved since."""
    by_size: dict[int, list[Medium]] = {}
    for medium in media:
        by_size.setdefault(medium.bytes, []).append(medium)
    for folder, _, names in (entry for root in roots if by_size for entry in os.walk(root)):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                yield from ((path, medium) for medium in by_size.get(path.stat().st_size, ()))


def _is_watched(path: Path, roots: Sequence[Path]) -> bool:
    """Whether it lies in a watched folder; a link lies where it is, not where the file is that it means."""
    return any(Path(os.path.realpath(path.parent), path.name).is_relative_to(root) for root in roots)


def _meant(link: Path) -> Path:
    return Path(os.path.realpath(link))


def require_writable(paths: Iterable[Path]) -> None:
    """Before anything is erased: these files can be removed.

    Raises:
        UsageError: one lies in a folder that may only be read.
    """
    for path in paths:
        if not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"{path} cannot be removed: its folder is read-only",
                "remove it yourself, or say --files none: it stays, and is not taken in again",
            )


def remove_own_files(pipeline: Pipeline, media: Sequence[Medium], which: str) -> None:
    """Removes those that go. With `none` those in watched folders are refused from now on, or they would come back."""
    going, staying = own_files(pipeline, media, which)
    # Links first: without the file they mean, a killed erasure could not tell any more that they are to go.
    for path in sorted((path for path, _ in going), key=Path.is_symlink, reverse=True):
        path.unlink(missing_ok=True)
    roots = [Path(os.path.realpath(folder)) for folder in pipeline.settings.watched]
    for path in staying if which == NONE else ():
        if _is_watched(path, roots):
            pipeline.sources.refuse(path, path.stat(), ERASED)


def remove_copies(pipeline: Pipeline, media: Iterable[Medium]) -> None:
    """Removes our originals, and the decoded frames, sound and thumbnails."""
    originals = Originals(pipeline.layout.originals)
    for medium in media:
        originals.remove(medium.media_id)
        pipeline.cache.forget(medium.media_id)


def remove_leftovers(pipeline: Pipeline) -> None:
    """What killed processes left in the home: half a warehouse, half an original."""
    warehouse = pipeline.layout.warehouse
    for path in warehouse.parent.glob(f".{warehouse.name}-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    Originals(pipeline.layout.originals).clean()


def cached_files(pipeline: Pipeline, media_id: str) -> list[Path]:
    """Decoded frames, sound and thumbnail of a medium."""
    folder = pipeline.cache.root / media_id[:2] / media_id
    return sorted(path for path in folder.glob("*") if path.is_file())


def thumbnail(pipeline: Pipeline, media_id: str) -> bytes:
    path = pipeline.cache.root / media_id[:2] / media_id / THUMBNAIL_FILE
    return path.read_bytes() if path.exists() else b""


def thumbnails_among(pipeline: Pipeline, wanted: Collection[bytes], but_for: Collection[str]) -> set[bytes]:
    """Those of these thumbnails that other media have as well, byte for byte."""
    sizes = {len(picture) for picture in wanted}
    found: set[bytes] = set()
    for path in pipeline.cache.root.glob(f"[0-9a-f][0-9a-f]/*/{THUMBNAIL_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # the cache may make room meanwhile
            if path.parent.name not in but_for and path.stat().st_size in sizes:
                found.add(path.read_bytes())
    return found.intersection(wanted)


def fingerprints(pipeline: Pipeline, media: Iterable[Medium]) -> dict[int, list[str]]:
    """sha256 of all our files of these media by size in bytes: a copy of one anywhere in the home is found by it."""
    found: dict[int, list[str]] = {}
    for size, digest in _digests(pipeline, media):
        found.setdefault(size, []).append(digest)
    return found


def _digests(pipeline: Pipeline, media: Iterable[Medium]) -> Iterator[tuple[int, str]]:
    for medium in media:
        if medium.bytes:
            yield medium.bytes, medium.media_id
        for path in cached_files(pipeline, medium.media_id):
            data = path.read_bytes()
            if data:
                yield len(data), hashlib.sha256(data).hexdigest()


def _holds(path: Path, medium: Medium) -> bool:
    """Whether the file at this path is the medium."""
    try:
        if not path.is_file() or path.stat().st_size != medium.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == medium.media_id
    except OSError:
        return False
