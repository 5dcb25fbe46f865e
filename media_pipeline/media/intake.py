"""From files to media: what is complete is stored by its hash, then registered; everything regular becomes a medium.

Whether a file is a picture or rubbish is for decoding to say, with a reason; here only what must not or cannot be read
is refused. The order of the steps (original stored, then registered, then announced) is what makes a kill harmless at
any instant: every step can be repeated, and none is visible before the one it stands on.
"""

from __future__ import annotations

import math
import os
import stat as mode
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from media_pipeline.config import Settings
from media_pipeline.errors import InputError, LimitExceeded
from media_pipeline.media.originals import ContentChangedError, Originals, content_hash, locate
from media_pipeline.media.partition_key import partition_key
from media_pipeline.media.walk import (
    PASSING,
    Found,
    Identity,
    inspect,
    inspect_given,
    open_found,
    unreadable,
    walk,
    written_to,
)
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sightings import Sighting, stamp
from media_pipeline.storage.sources import KnownMedium, Sources, shown

# Paths looked up at once: large enough to make SQLite cheap, small enough to keep a tick's limits sharp.
CHUNK = 500
POLL_S = 0.2
# A file that somebody has open for writing is waited for this long after its last change; then he has forgotten it.
OPEN_FOR_WRITING_S = 600.0
_CURSOR = "intake.cursor"

Outcome = Literal["new", "known", "refused", "waiting"]
Progress = Callable[[Path, Outcome], None]


@dataclass(slots=True)
class IntakeReport:
    """What became of the files. Paths are for people: undecodable bytes are written as `\\xNN`.

    Attributes:
        new: media that were not known before
        known: media that were, once each; of a tick only those seen at a new place or with new content there
        refused: (path, cause and remedy); of a tick only those not reported before
        waiting: files that are still written to
        complete: the whole of the folders was looked at; False where a limit ended the tick, the next one goes on
    """

    new: list[KnownMedium] = field(default_factory=list)
    known: list[KnownMedium] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    waiting: list[Path] = field(default_factory=list)
    complete: bool = True


class Intake:
    """Takes files in.

    Args:
        layout: of an existing home (`Layout.create`)
        sources: what is known already
        settings: `settle_s`, `link_originals`, `min_free_bytes`, `decode.max_file_bytes`
    """

    def __init__(self, layout: Layout, sources: Sources, settings: Settings) -> None:
        self._layout = layout
        self._sources = sources
        self._settings = settings
        self.originals = Originals(layout.originals, min_free_bytes=settings.min_free_bytes)

    def take(
        self,
        paths: Iterable[Path],
        *,
        wait: bool,
        progress: Progress | None = None,
        patience_s: float = 600.0,
    ) -> IntakeReport:
        """Take files, and folders with all they hold, now.

        Args:
            paths: a file that is named is tried whatever its name, and a link that is named is followed
            wait: stay until each file is complete; otherwise those still written to are reported as waiting
            progress: told what became of each file, once
            patience_s: with `wait`, how long a file that never rests is waited for

        Raises:
            DiskFull, StorageUnavailable: nothing can be stored; what was taken until then stays taken
        """
        desk = _Desk(progress)
        deadline = time.monotonic() + patience_s
        found = self._expand(paths, desk)
        while pending := self._take_all(found, desk):
            if not wait or time.monotonic() > deadline:
                for one in pending:
                    desk.report.waiting.append(_path(one.path))
                    desk.tell(one, "waiting")
                break
            time.sleep(POLL_S)
            found = (again for one in pending if (again := _look_again(one)))
        return self._finish(desk)

    def tick(
        self, roots: Sequence[Path], *, limit_files: int, limit_seconds: float, look_seconds: float = math.inf
    ) -> IntakeReport:
        """One look at the watched folders: bounded work, never a sleep.

        A look that a limit ended is continued by the next one, be it another process, where this one stopped.

        Args:
            limit_files: files read at most; known and unchanged files are not read and do not count
            limit_seconds: begins no further file after this time
            look_seconds: goes no further after this time where nothing was read, but some hundred files at least

        Raises:
            DiskFull, StorageUnavailable: nothing can be stored; what was taken until then stays taken, and the next
                tick goes on
        """
        desk = _Desk(None)
        began = time.monotonic()
        last = self._sources.note(_CURSOR)
        read = 0
        for number, (one, seen) in enumerate(self._with_sightings(self._watched(roots, last))):
            seconds = limit_seconds if read or number < CHUNK else min(look_seconds, limit_seconds)
            if read >= limit_files or time.monotonic() - began >= seconds:
                desk.report.complete = False
                break
            if seen and seen.state != "waiting" and seen.stamp == _stamp(one):
                desk.touched.append(one.path)
            elif seen and seen.leaves_alone(one.stat):
                self._sources.refuse(one.path, one.stat, seen.reason or "")  # under its new stamp
            else:
                read += self._consider(one, seen, desk)
            last = one.path
        desk.report.waiting = [_path(one.path) for one in desk.pending]
        self._sources.set_note(_CURSOR, None if desk.report.complete else last)
        report = self._finish(desk)  # what was seen is noted before what was not is forgotten
        if report.complete:
            self._sources.drop_vanished([os.path.realpath(root) for root in roots])
        return report

    # -- which files ---------------------------------------------------------------------------------------------

    def _expand(self, paths: Iterable[Path], desk: _Desk) -> Iterator[Found]:
        own = self._own_folders()
        for path in paths:
            try:
                found = inspect_given(str(path))
            except (OSError, ValueError) as error:
                desk.refuse(path, _missing(path, error))
                continue
            if found.stat is None or not mode.S_ISDIR(found.stat.st_mode):
                yield found
            elif (found.stat.st_dev, found.stat.st_ino) in own:
                desk.refuse(path, _own(path))
            else:
                yield from walk(found.real, skip=own)

    def _watched(self, roots: Sequence[Path], after: str | None) -> Iterator[Found]:
        own = self._own_folders()
        reals = [os.path.realpath(root) for root in roots]
        current = next((i for i, root in enumerate(reals) if after and Path(after).is_relative_to(root)), None)
        if current is not None:
            yield from walk(reals[current], after=after, skip=own)
        for root in reals[0 if current is None else current + 1 :]:
            yield from walk(root, skip=own)

    def _own_folders(self) -> frozenset[Identity]:
        """The library itself, which `analyze .` beside its home must not take in; its inbox is not part of that."""
        home = self._layout
        folders = (home.home, home.originals, home.cache, home.tables, home.indexes, home.locks, home.dagster)
        stats = (folder.stat() for folder in (*folders, self._settings.models) if folder.exists())
        return frozenset((stat.st_dev, stat.st_ino) for stat in stats)

    def _with_sightings(self, found: Iterator[Found]) -> Iterator[tuple[Found, Sighting | None]]:
        while chunk := list(islice(found, CHUNK)):
            seen = self._sources.look_up([one.path for one in chunk])
            yield from ((one, seen.get(one.path)) for one in chunk)

    # -- one file ------------------------------------------------------------------------------------------------

    def _take_all(self, found: Iterator[Found], desk: _Desk) -> list[Found]:
        """Take what is complete; the rest is handed back."""
        desk.pending = []
        for one, seen in self._with_sightings(found):
            if seen and seen.media_id and seen.stamp == _stamp(one) and self._intact(seen.media_id):
                desk.known[seen.media_id] = None
                desk.tell(one, "known")
            else:
                self._consider(one, seen, desk)
        self._sources.observe((one.path, one.stat) for one in desk.pending if one.stat)
        return desk.pending

    def _consider(self, found: Found, seen: Sighting | None, desk: _Desk) -> bool:
        """Decide about a file that is new, changed or awaited; True when it was read."""
        refusal = found.refusal or self._too_large(found)
        if refusal or found.stat is None:
            self._refuse(found, refusal or unreadable(found.path, OSError()), desk)
        elif not self._settled(found.stat, seen):
            desk.pending.append(found)
        else:
            try:
                return self._read(found, desk)
            except (ContentChangedError, BlockingIOError):
                desk.pending.append(found)
            except FileNotFoundError:
                pass  # gone between the look and the opening: as if it had never been there
            except InputError as error:
                self._refuse(found, error, desk)
            except OSError as error:  # of the file: those of our store are of another type
                if error.errno in PASSING:
                    desk.refuse(found.path, unreadable(found.path, error))  # not remembered: the next look tries again
                else:
                    self._refuse(found, unreadable(found.path, error), desk)
        return False

    def _settled(self, stat: os.stat_result, seen: Sighting | None) -> bool:
        """Unchanged for `settle_s`, by the file's own clock or, where that runs ahead of ours, by observation.

        A file that was moved in, or copied with its times kept, is complete when it appears: its modification time
        is old, and only its change time is new.
        """
        settle_s, now = self._settings.settle_s, time.time()
        if settle_s == 0 or now - stat.st_mtime >= settle_s:
            return True
        return bool(seen and seen.state == "waiting" and seen.stamp == stamp(stat) and now - seen.since >= settle_s)

    def _read(self, found: Found, desk: _Desk) -> bool:
        handle = open_found(found)
        try:
            stat = os.fstat(handle)
            if time.time() - stat.st_mtime < OPEN_FOR_WRITING_S and written_to(handle):
                raise ContentChangedError
            if self._settings.link_originals:
                media_id, stored = content_hash(handle, stat), Path(found.real)
            else:
                media_id, stored = self.originals.store(handle, stat)
        finally:
            os.close(handle)
        self._register(found, stat, media_id, stored, desk)
        return True

    def _register(self, found: Found, stat: os.stat_result, media_id: str, stored: Path, desk: _Desk) -> None:
        linked = self._settings.link_originals
        key = partition_key(Path(found.path).name, media_id)
        medium, created = self._sources.add(
            found.path, stat, media_id=media_id, partition_key=key, stored=stored, linked=linked
        )
        if created:
            desk.report.new.append(medium)
        elif not self._intact(media_id):
            self._sources.relink(media_id, stored, stat.st_mtime_ns if linked else None)
        desk.known[media_id] = None
        desk.tell(found, "new" if created else "known")

    def _intact(self, media_id: str) -> bool:
        medium = self._sources.by_id([media_id]).get(media_id)
        try:
            return medium is not None and bool(locate(medium))
        except InputError:
            return False

    def _too_large(self, found: Found) -> InputError | None:
        limit = self._settings.decode.max_file_bytes
        if found.stat is None or found.stat.st_size <= limit:
            return None
        return LimitExceeded(
            f"{shown(found.path)!r} has {found.stat.st_size / 1e9:.1f} GB, and {limit / 1e9:.1f} GB are the limit",
            "raise MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES and analyze the file once more",
        )

    def _refuse(self, found: Found, error: InputError, desk: _Desk) -> None:
        self._sources.refuse(found.path, found.stat, str(error))
        desk.refuse(found.path, error)

    def _finish(self, desk: _Desk) -> IntakeReport:
        self._sources.observe((one.path, one.stat) for one in desk.pending if one.stat)
        self._sources.touch(desk.touched)
        new = {medium.media_id for medium in desk.report.new}
        known = [media_id for media_id in desk.known if media_id not in new]
        media = self._sources.by_id(known)
        desk.report.known = [media[media_id] for media_id in known if media_id in media]
        return desk.report


class _Desk:
    """What one call has found out so far."""

    def __init__(self, progress: Progress | None) -> None:
        self.report = IntakeReport()
        self.known: dict[str, None] = {}  # ids in the order in which they were met
        self.pending: list[Found] = []
        self.touched: list[str] = []
        self._progress = progress

    def tell(self, found: Found, outcome: Outcome) -> None:
        if self._progress:
            self._progress(_path(found.path), outcome)

    def refuse(self, path: str | Path, error: InputError) -> None:
        self.report.refused.append((_path(path), str(error)))
        if self._progress:
            self._progress(_path(path), "refused")


def _path(path: str | Path) -> Path:
    return Path(shown(path))


def _stamp(found: Found) -> str:
    return stamp(found.stat) if found.stat else ""


def _look_again(found: Found) -> Found | None:
    """The same path once more. Only a link that was named may lead anywhere; what has become one meanwhile may not."""
    is_named_link = found.given and found.path != found.real
    try:
        return inspect_given(found.path) if is_named_link else inspect(found.root, found.path)
    except OSError:
        return None


def _missing(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"{shown(path)!r} does not exist", "check the spelling; a relative path starts here")
    return InputError(f"{shown(path)!r} cannot be read: {error}", "check the path and the access to its folders")


def _own(path: Path) -> InputError:
    return InputError(f"{shown(path)!r} is the library itself", "name the folder in which your media are")
