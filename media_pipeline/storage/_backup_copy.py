"""Copying the files of a home into a repository, each in the way that suits it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from media_pipeline.errors import MediaPipelineError
from media_pipeline.storage._backup_cut import connect, copy_database
from media_pipeline.storage._backup_io import UnreadableError
from media_pipeline.storage._backup_manifest import FileEntry
from media_pipeline.storage._backup_repository import Repository, Stored
from media_pipeline.storage._backup_scan import Found
from media_pipeline.storage.disk import is_disk_full
from media_pipeline.storage.sightings import stamp

ORIGINALS = "originals"
CACHE = "cache"
_READS = 3  # of a file that somebody writes to
# Whoever may write to the inbox could put a link or a pipe in the place of a file that was looked at.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

OnProgress = Callable[[str, int, int], None]  # what was copied, bytes done, bytes in all


@dataclass(slots=True)
class Copied:
    """What one backup has stored so far."""

    new_objects: int = 0
    new_bytes: int = 0
    read_bytes: int = 0
    done_bytes: int = 0
    all_bytes: int = 0


class Copier:
    """Fills `entries`; what cannot be had stands in `problems`, with the reason, by its path below the home.

    Args:
        previous: the files of the last snapshot. One that still has its stamp is not read again.
        seen: stamp and hash of files that intake has hashed already.
        verify: read them all the same, and compare.
    """

    def __init__(
        self,
        home: Path,
        repository: Repository,
        previous: Mapping[str, FileEntry],
        seen: Mapping[str, tuple[str, str]],
        copied: Copied,
        *,
        verify: bool,
        progress: OnProgress,
    ) -> None:
        self._home, self._repository, self._previous, self._seen = home, repository, previous, seen
        self._copied, self._verify, self._progress = copied, verify, progress
        self.entries: dict[str, FileEntry] = {}
        self.problems: dict[str, str] = {}

    def database(self, path: Path, pinned: sqlite3.Connection | None = None) -> None:
        """A SQLite file as a connection sees it, whoever writes to it meanwhile.

        Args:
            pinned: a connection that sees an earlier state than the file has now; without one, the present state.
        """
        name = self._name(path)
        try:
            # Before the copy is made: what is written during it makes the next backup look again.
            known = "" if pinned else _database_stamp(path)
            status = path.stat()
            if self._reuse(name, known):
                return
            stored = self._store_database(pinned or path)
        except FileNotFoundError:
            return
        except sqlite3.DatabaseError as error:
            if is_disk_full(error, self._repository.root):
                raise
            self.problems[name] = f"SQLite cannot read it: {error}"
            return
        entry = FileEntry(name, stored.parts, stored.size, _mode(status), status.st_mtime_ns, known, "database")
        self._enter(entry, stored)

    def table_file(self, path: Path) -> None:
        """A file of a Delta table: it never changes.

        Raises:
            FileNotFoundError: it was removed.
            MediaPipelineError: it cannot be read; without it there is no table.
        """
        name, status = self._name(path), path.stat()
        if self._reuse(name, stamp(status)):
            return
        try:
            with path.open("rb") as source:
                stored = self._repository.store(source.fileno())
        except (PermissionError, UnreadableError) as error:
            raise MediaPipelineError(f"{path} cannot be read: {error}", "former snapshots are not affected") from error
        entry = FileEntry(name, stored.parts, stored.size, _mode(status), status.st_mtime_ns, stamp(status), "table")
        self._enter(entry, stored)

    def text(self, path: Path, data: bytes) -> None:
        """What this file of a Delta table held at the instant of the snapshot."""
        with self._repository.scratch() as copy:
            copy.write_bytes(data)
            with copy.open("rb") as source:
                stored = self._repository.store(source.fileno())
        self._enter(FileEntry(self._name(path), stored.parts, stored.size, 0o600, 0, "", "table"), stored)

    def plain(self, file: Found) -> None:
        """Any other file. One that vanishes is not missed: it was removed on purpose."""
        for _ in range(_READS):
            try:
                handle = os.open(file.path, _OPEN)
            except FileNotFoundError:
                return
            except OSError as error:
                self.problems[file.name] = f"cannot be read: {error.strerror}"
                return
            with os.fdopen(handle, "rb"):
                if self._try_plain(file.name, handle):
                    return
        self.problems[file.name] = "somebody was writing to it"

    def drop_torn_cache(self) -> None:
        """Cached media appear and go as whole folders; what was copied of one that went meanwhile is left out."""
        folders: dict[str, dict[str, str]] = defaultdict(dict)
        for name, entry in self.entries.items():
            if name.startswith(f"{CACHE}{os.sep}"):
                folder, _, file = name.rpartition(os.sep)
                folders[folder][file] = _inode(entry.stamp)
        for folder, files in folders.items():
            try:
                with os.scandir(self._home / folder) as found:
                    now = {entry.name: str(entry.inode()) for entry in found}
            except FileNotFoundError:
                now = {}
            if now != files:
                for file in files:
                    del self.entries[f"{folder}{os.sep}{file}"]

    # ------------------------------------------------------------------ inner workings

    def _try_plain(self, name: str, handle: int) -> bool:
        """Whether it is done with; not where the file changed meanwhile."""
        status = os.fstat(handle)
        if self._reuse(name, stamp(status)) or self._hashed_before(name, status):
            return True
        try:
            stored = self._repository.store(handle, likely=self._likely(name))
        except UnreadableError as error:
            self.problems[name] = f"cannot be read: {error}"
            return True
        if stamp(os.fstat(handle)) != stamp(status):
            return False
        self._enter(self._plain_entry(name, stored.parts, status), stored)
        return True

    def _store_database(self, source: sqlite3.Connection | Path) -> Stored:
        with self._repository.scratch() as copy:
            if isinstance(source, Path):
                with closing(connect(source)) as connection:
                    copy_database(connection, copy)
            else:
                copy_database(source, copy)
            with copy.open("rb") as file:
                return self._repository.store_parts(file.fileno())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._home))

    def _reuse(self, name: str, known: str) -> bool:
        """Whether the last snapshot holds this very file."""
        old = self._standing(name, known)
        if old is None or self._verify:
            return False
        self._note(old)
        return True

    def _standing(self, name: str, known: str) -> FileEntry | None:
        old = self._previous.get(name)
        return old if old and known and old.stamp == known and self._repository.holds(old.parts) else None

    def _hashed_before(self, name: str, status: os.stat_result) -> bool:
        """Whether intake has hashed this file as it is, and its content is stored already."""
        known, digest = self._seen.get(name, ("", ""))
        if self._verify or known != stamp(status) or not self._repository.holds((digest,)):
            return False
        self._note(self._plain_entry(name, (digest,), status))
        return True

    def _likely(self, name: str) -> str | None:
        return PurePath(name).name if PurePath(name).parts[0] == ORIGINALS else None

    def _plain_entry(self, name: str, parts: tuple[str, ...], status: os.stat_result) -> FileEntry:
        return FileEntry(name, parts, status.st_size, _mode(status), status.st_mtime_ns, stamp(status))

    def _enter(self, entry: FileEntry, stored: Stored) -> None:
        self._copied.new_objects += stored.new_objects
        self._copied.new_bytes += stored.new_bytes
        self._copied.read_bytes += stored.size
        self._note(self._sound(entry))

    def _sound(self, entry: FileEntry) -> FileEntry:
        """The entry, or the one of the good content stored earlier where the file has rotted since."""
        old = self._standing(entry.path, entry.stamp)
        if old is not None and old.parts != entry.parts and entry.kind != "database":
            self.problems[entry.path] = (
                "its content changed though nobody wrote to it: the disk fails; what was stored earlier is kept"
            )
            return old
        named = self._likely(entry.path)
        if named is None or entry.parts == (named,):
            return entry
        if not self._repository.holds((named,)):
            self.problems[entry.path] = "its content is not the one it was taken in with: the disk fails"
            return replace(entry, stamp="")  # to be said again by every backup
        self.problems[entry.path] = (
            "its content is damaged: the disk fails; the good one was stored earlier and is kept"
        )
        self._repository.settle()
        size = self._repository.object_path(named).stat().st_size
        return replace(entry, parts=(named,), size=size, stamp="")

    def _note(self, entry: FileEntry) -> None:
        self.entries[entry.path] = entry
        self._copied.done_bytes += entry.size
        self._progress(entry.path, self._copied.done_bytes, self._copied.all_bytes)


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode)


def _inode(known: str) -> str:
    return known.split(".")[3]


def _database_stamp(path: Path) -> str:
    """Of the file and its write-ahead log, where one waits."""
    log = path.with_name(f"{path.name}-wal")
    try:
        waiting = log.stat()
    except FileNotFoundError:
        return stamp(path.stat())
    return f"{stamp(path.stat())} {stamp(waiting)}" if waiting.st_size else stamp(path.stat())
