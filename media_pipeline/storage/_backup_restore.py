"""A snapshot becomes a home: every byte is compared with its hash on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from media_pipeline.errors import DamagedBackup, DiskFull, UsageError
from media_pipeline.storage._backup_io import BLOCK
from media_pipeline.storage._backup_manifest import FileEntry, Snapshot
from media_pipeline.storage._backup_repository import Repository
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import RESTORING

RECEIPTS = "receipts"
# Media are worth having without one of them; tables and databases are not worth having in pieces.
_DISPENSABLE = ("originals", "inbox", "cache", "models")

OnProgress = Callable[[str, int, int], None]  # what was copied, bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    snapshot: str
    files: int
    bytes: int
    seconds: float
    linked_outside: int
    erased_since: tuple[str, ...]  # receipts of erasures after the snapshot: what they name is back
    damaged: Mapping[str, str] = field(repr=False)  # files that could not be restored, and why


def restore(repository: Repository, snapshot_id: str, home: Path, progress: OnProgress = lambda *_: None) -> Restored:
    """Writes a snapshot into a new or empty folder. Interrupted, the same call goes on where it was.

    Raises:
        UsageError: the folder holds something else.
        DiskFull: there is no room; nothing or only a part has been written.
        DamagedBackup: the snapshot cannot be read, or lost a part of a table or database.
    """
    started = time.monotonic()
    if home.resolve().is_relative_to(repository.root.resolve()):
        raise UsageError(f"{home} lies in the folder of the backups", "name another folder")
    snapshot = repository.load(snapshot_id)
    _take(home, snapshot_id)
    damaged: dict[str, str] = {}
    done = 0
    with disk_full_explained(home):
        missing = [file for file in _in_order(snapshot) if not _is_there(home / file.path, file)]
        _require_room(home, sum(file.size for file in missing))
        for folder in sorted(snapshot.head.folders):
            (home / folder).mkdir(parents=True, exist_ok=True)
        total = sum(file.size for file in missing)
        for file in missing:
            try:
                _write(repository, file, home / file.path)
            except DamagedBackup as error:
                if file.path.partition(os.sep)[0] not in _DISPENSABLE:
                    raise
                damaged[file.path] = error.cause
            done += file.size
            progress(file.path, done, total)
        # Last: a folder may forbid writing.
        for folder, mode in sorted(snapshot.head.folders.items(), reverse=True):
            (home / folder).chmod(mode)
    (home / RESTORING).unlink()
    return Restored(
        snapshot=snapshot_id,
        files=len(snapshot.files) - len(damaged),
        bytes=sum(file.size for file in snapshot.files if file.path not in damaged),
        seconds=time.monotonic() - started,
        linked_outside=snapshot.head.linked_outside,
        erased_since=_erased_since(repository, snapshot_id, snapshot),
        damaged=damaged,
    )


def read(repository: Repository, file: FileEntry) -> Iterator[bytes]:
    """The content of a file, in blocks.

    Raises:
        DamagedBackup: after the last block of a part, where it is not what its hash says.
    """
    for digest in file.parts:
        found = hashlib.sha256()
        try:
            with repository.object_path(digest).open("rb") as source:
                while data := source.read(BLOCK):
                    found.update(data)
                    yield data
        except OSError as error:
            raise DamagedBackup(f"object {digest} is gone: {error.strerror}", _remedy(file)) from error
        if found.hexdigest() != digest:
            raise DamagedBackup(f"object {digest} was changed after it was written", _remedy(file))


def _remedy(file: FileEntry) -> str:
    return f"it holds {file.path}; `backup verify` says what else is affected, another snapshot may be whole"


def _take(home: Path, snapshot_id: str) -> None:
    """Makes the folder ours, before anything is written to it."""
    mark = home / RESTORING
    try:
        with suppress(FileNotFoundError):
            if mark.read_text(encoding="utf-8") == snapshot_id:
                return
            raise UsageError(f"{home} is being restored from another snapshot", "name an empty folder")
        if home.exists() and any(home.iterdir()):
            raise UsageError(f"{home} is not empty", "name a new or empty folder; nothing is ever overwritten")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.write_text(snapshot_id, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{home} cannot be written: {error.strerror}", "name another folder") from error


def _in_order(snapshot: Snapshot) -> list[FileEntry]:
    """What a home cannot be without comes first: its damage is known before gigabytes are copied."""
    return sorted(snapshot.files, key=lambda file: (file.path.partition(os.sep)[0] in _DISPENSABLE, file.path))


def _is_there(path: Path, file: FileEntry) -> bool:
    """Whether an interrupted call has written this file: it has its name and time only once it is complete."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)


def _require_room(home: Path, size: int) -> None:
    free = shutil.disk_usage(home).free
    if free < size:
        raise DiskFull(
            f"{size / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free at {home}", "name another disk"
        )


def _write(repository: Repository, file: FileEntry, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:200]}.restoring")
    partial.unlink(missing_ok=True)
    # Nobody else reads it before it has its own permissions.
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as target:
            for data in read(repository, file):
                target.write(data)
            target.flush()
            os.fchmod(target.fileno(), file.mode)
            os.utime(target.fileno(), ns=(file.mtime_ns, file.mtime_ns))
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _erased_since(repository: Repository, snapshot_id: str, snapshot: Snapshot) -> tuple[str, ...]:
    """Receipts that the newest snapshot has and this one lacks."""
    newest = repository.snapshots()[-1]
    if newest == snapshot_id:
        return ()
    known = {file.path for file in snapshot.files}
    try:
        later = repository.load(newest)
    except DamagedBackup:
        return ()
    return tuple(f.path for f in later.files if f.path.startswith(f"{RECEIPTS}{os.sep}") and f.path not in known)
