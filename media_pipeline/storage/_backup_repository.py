"""The folder that backups are kept in: content by its hash, and one list of files per snapshot.

    repository.json        what this folder is
    objects/ab/<sha256>    content, stored once however many files and snapshots hold it; never changed
    snapshots/<id>.json.gz the files of a snapshot; the id is its time and the hash of the list
    incoming/              being written
    damaged/               objects that `verify` found changed: the next backup stores them anew

An object and a list appear complete or not at all, and a list after all its objects: whatever is interrupted, the
repository holds whole snapshots, and what nobody names is removed by the next `prune`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from media_pipeline.errors import DamagedBackup, DiskFull, StorageConflict, UsageError
from media_pipeline.storage._backup_io import flush, flush_disk, hashed, read_at, write_all, write_file
from media_pipeline.storage._backup_manifest import (
    FORMAT,
    PART_BYTES,
    Head,
    Snapshot,
    decode,
    decode_head,
    encode,
)

_MARK = "repository.json"
_LIST_SUFFIX = ".json.gz"
_ID_TIME = "%Y%m%dT%H%M%S.%fZ"
_ID_DIGITS = 12
# Objects wait for the disk together: to flush each one costs more than to write a small one.
_WAITING_OBJECTS = 256
_WAITING_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of storing some content."""

    parts: tuple[str, ...]
    size: int
    new_bytes: int  # that no snapshot held before
    new_objects: int


class Repository:
    """One folder of backups. Writers hold `locked()`; reading needs no lock and no write permission.

    Attributes:
        min_free_bytes: room that must stay free on its disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.min_free_bytes = 0
        self._present: set[str] = set()
        self._waiting: list[tuple[Path, str]] = []  # complete, but perhaps not on the disk yet
        self._waiting_bytes = 0

    @classmethod
    def open(cls, root: Path) -> Repository:
        """A repository that is there.

        Raises:
            UsageError: it is not.
        """
        try:
            found = json.loads((root / _MARK).read_text(encoding="utf-8"))["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{root} is no backup", "name the folder that `backup` was given") from None
        if found > FORMAT:
            raise UsageError(f"{root} was written by a newer version", "upgrade media-pipeline")
        return cls(root)

    @classmethod
    def create(cls, root: Path) -> Repository:
        """A repository, made in a new or empty folder where there is none.

        Raises:
            UsageError: the folder holds other things or cannot be written.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = {entry.name for entry in root.iterdir()}
            if _MARK not in made:
                # A run that was killed may have come only so far.
                if made - {".lock", "objects", "snapshots", "incoming", f"{_MARK}.partial"}:
                    raise UsageError(f"{root} holds other things than backups", "name a new or empty folder")
                for name in ("objects", "snapshots", "incoming"):
                    (root / name).mkdir(mode=0o700, exist_ok=True)
                write_file(root / _MARK, json.dumps({"format": FORMAT}).encode())
        except OSError as error:
            raise UsageError(f"{root} cannot hold backups: {error.strerror}", "name another folder") from error
        return cls.open(root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process changes the repository meanwhile. What a killed one left half-written is removed.

        Raises:
            StorageConflict: another one does.
        """
        try:
            lock = FileLock(self.root / ".lock", mode=0o600, fallback_to_soft=False, timeout=0)
            lock.acquire()
        except Timeout:
            raise StorageConflict(f"another backup, prune or verify works on {self.root}", "let it finish") from None
        except OSError as error:
            raise UsageError(f"{self.root} cannot be written: {error.strerror}", "give this user access") from error
        try:
            shutil.rmtree(self._incoming, ignore_errors=True)
            self._incoming.mkdir(mode=0o700)
            self._present = set(self.objects())
            self._waiting, self._waiting_bytes = [], 0
            yield
        finally:
            lock.release()

    # ------------------------------------------------------------------ content

    def holds(self, parts: Collection[str]) -> bool:
        """Whether all these are stored; as of `locked()` and what was stored since."""
        return self._present.issuperset(parts)

    def objects(self) -> Iterator[str]:
        """The hashes of all that is stored."""
        for folder in (self.root / "objects").iterdir():
            yield from (entry.name for entry in os.scandir(folder))

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def store(self, source: int, *, likely: str | None = None) -> Stored:
        """The content of an open file, from its beginning to its end.

        Args:
            likely: its hash, where there is reason to expect one: stored content is then only compared.

        Raises:
            DiskFull, UnreadableError: nothing of it remains.
        """
        if likely is not None and likely in self._present:
            digest, size = hashed(source)
            if digest == likely:
                return Stored((digest,), size, 0, 0)
        self._require_room(os.fstat(source).st_size)
        with self._temporary() as (target, path):
            digest, size = hashed(source, copy_to=target)
            return Stored((digest,), size, *self._publish(target, path, digest, size))

    def store_parts(self, source: int) -> Stored:
        """Likewise, in parts of `PART_BYTES`."""
        parts: list[str] = []
        size = new_bytes = new_objects = 0
        while data := read_at(source, PART_BYTES, size):
            digest = hashlib.sha256(data).hexdigest()
            if digest not in self._present:
                self._require_room(len(data))
                with self._temporary() as (target, path):
                    write_all(target, memoryview(data))
                    added = self._publish(target, path, digest, len(data))
                new_bytes, new_objects = new_bytes + added[0], new_objects + added[1]
            parts.append(digest)
            size += len(data)
        return Stored(tuple(parts), size, new_bytes, new_objects)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A name for a temporary file on the disk of the repository."""
        path = self._incoming / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def condemn(self, digest: str) -> None:
        """Sets a damaged object aside, so that the next backup stores the content anew."""
        (self.root / "damaged").mkdir(mode=0o700, exist_ok=True)
        self.object_path(digest).rename(self.root / "damaged" / digest)
        self._present.discard(digest)

    def sweep(self, named: Collection[str]) -> int:
        """Removes all objects but these; returns the bytes freed."""
        freed = 0
        for digest in [digest for digest in self.objects() if digest not in named]:
            path = self.object_path(digest)
            freed += path.stat().st_size
            path.unlink()
            self._present.discard(digest)
        shutil.rmtree(self.root / "damaged", ignore_errors=True)
        return freed

    # ------------------------------------------------------------------ snapshots

    def snapshots(self) -> list[str]:
        """Ids, the oldest first."""
        names = (path.name for path in (self.root / "snapshots").glob(f"*{_LIST_SUFFIX}"))
        return sorted(name.removesuffix(_LIST_SUFFIX) for name in names)

    def resolve(self, given: str | None) -> str:
        """The id that begins so; the newest where none is given.

        Raises:
            UsageError: there is none, or there are several.
        """
        ids = self.snapshots()
        found = ids[-1:] if given is None else [i for i in ids if i.startswith(given)]
        if not ids:
            raise UsageError(f"{self.root} holds no complete snapshot", "run `backup` first")
        if len(found) != 1:
            raise UsageError(f"{len(found)} snapshots begin with {given!r}", f"the newest are {', '.join(ids[-3:])}")
        return found[0]

    def load(self, snapshot_id: str) -> Snapshot:
        """The snapshot of this id.

        Raises:
            DamagedBackup: its list is not what was written.
        """
        try:
            data = self._list_path(snapshot_id).read_bytes()
        except OSError as error:
            raise DamagedBackup(f"the list of {snapshot_id} cannot be read: {error.strerror}") from error
        if not snapshot_id.endswith(hashlib.sha256(data).hexdigest()[:_ID_DIGITS]):
            raise DamagedBackup(f"the list of {snapshot_id} was changed after it was written", "use another snapshot")
        return decode(data)

    def head(self, snapshot_id: str) -> Head:
        """What a snapshot says of itself, without reading and checking its list.

        Raises:
            DamagedBackup: not even that can be read.
        """
        try:
            with self._list_path(snapshot_id).open("rb") as file:
                return decode_head(file)
        except OSError as error:
            raise DamagedBackup(f"the list of {snapshot_id} cannot be read: {error}") from error

    def publish(self, snapshot: Snapshot) -> str:
        """Makes a snapshot visible, once all it names is on the disk; returns its id."""
        self.settle()
        flush_disk(self.root)  # the names too
        data = encode(snapshot)
        self._require_room(len(data))
        digits = hashlib.sha256(data).hexdigest()[:_ID_DIGITS]
        snapshot_id = f"{snapshot.head.created_at.strftime(_ID_TIME)}-{digits}"
        write_file(self._list_path(snapshot_id), data)
        return snapshot_id

    def remove(self, snapshot_id: str) -> None:
        """Forgets a snapshot; what only it held stays until `sweep`."""
        self._list_path(snapshot_id).unlink()
        flush(self.root / "snapshots")

    # ------------------------------------------------------------------ inner workings

    @property
    def _incoming(self) -> Path:
        return self.root / "incoming"

    def _list_path(self, snapshot_id: str) -> Path:
        return self.root / "snapshots" / f"{snapshot_id}{_LIST_SUFFIX}"

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        path = self._incoming / secrets.token_hex(16)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield handle, path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    def _publish(self, handle: int, path: Path, digest: str, size: int) -> tuple[int, int]:
        """Bytes and objects that are new. The object has its name when it is on the disk (`settle`)."""
        if digest in self._present:
            path.unlink()
            return 0, 0
        with contextlib.suppress(PermissionError):  # disks of other systems know no permissions
            os.fchmod(handle, 0o400)
        self._present.add(digest)
        self._waiting.append((path, digest))
        self._waiting_bytes += size
        if len(self._waiting) >= _WAITING_OBJECTS or self._waiting_bytes >= _WAITING_BYTES:
            self.settle()
        return size, 1

    def settle(self) -> None:
        """Everything stored is on the disk and has its name; a power cut never leaves an empty object of that name."""
        flush_disk(self.root)
        for path, digest in self._waiting:
            place = self.object_path(digest)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            path.rename(place)
        self._waiting, self._waiting_bytes = [], 0

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self.root).free
        if free - size < self.min_free_bytes:
            raise DiskFull(
                f"{free / 1e9:.1f} GB are free at {self.root}, {self.min_free_bytes / 1e9:.1f} GB must stay free",
                "make room or `backup prune`; what was stored is kept, and the next backup goes on from there",
            )


def time_of(snapshot_id: str) -> datetime:
    return datetime.strptime(snapshot_id.partition("-")[0], _ID_TIME).replace(tzinfo=UTC)
