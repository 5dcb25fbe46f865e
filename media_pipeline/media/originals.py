"""Originals by the hash of their content: `originals/ab/<sha256>`, read-only, never modified.

A file appears under its hash complete or not at all: it is copied to a temporary name in the same tree (hashed in the
same reading), flushed to the disk and renamed. A temporary file is locked while its writer lives, so what a killed run
left behind can be told from what another process is writing just now.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from media_pipeline.errors import CorruptMedia, DiskFull, InputError, LimitExceeded, StorageUnavailable
from media_pipeline.media.locked import create_locked, unheld
from media_pipeline.storage.sightings import stamp
from media_pipeline.storage.sources import KnownMedium

BLOCK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REMEDY = "free some space or set MEDIA_PIPELINE_LINK_ORIGINALS=true; intake goes on from where it stopped"


class ContentChangedError(Exception):
    """Somebody wrote to the file while it was read; it is not complete yet."""


class Originals:
    """The store of originals below one folder.

    Args:
        folder: made when missing
        min_free_bytes: room that a copy must leave on the disk
    """

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._incoming = folder / ".incoming"
        self._min_free_bytes = min_free_bytes
        with _own_errors(folder):
            self._incoming.mkdir(parents=True, exist_ok=True)
            self.clean()

    def path(self, media_id: str) -> Path:
        return self._folder / media_id[:2] / media_id

    def store(self, source: int, expected: os.stat_result) -> tuple[str, Path]:
        """Copy an open file into the store.

        Args:
            source: the file, open for reading
            expected: what `fstat` said of it before

        Returns:
            the sha256 of the content in hex digits, and where it lies now, complete and flushed to the disk.

        Raises:
            ContentChangedError: it was written to meanwhile; nothing of it remains
            DiskFull: the copy would not leave `min_free_bytes`; nothing of it remains
            LimitExceeded: the file system of the store takes no file of this size
            StorageUnavailable: the store cannot be written to
            OSError: the source cannot be read
        """

        def write(data: memoryview) -> None:
            with _own_errors(self._folder):
                _write_all(target, data)

        self._check_room(expected.st_size)
        with self._temporary() as (target, temporary):
            if _cloned(source, target):
                media_id = _hash(target, expected.st_size)  # the blocks are the source's, and so are errors of reading
            else:
                media_id = _hash(source, expected.st_size, write)
            _check_unchanged(source, expected)
            place = self.path(media_id)
            if not _holds(place, expected.st_size):
                self._publish(target, temporary, place)
        return media_id, place

    def remove(self, media_id: str) -> bool:
        """Erase our copy; False where there is none. Linked originals are never touched."""
        place = self.path(media_id)
        try:
            place.unlink()
        except FileNotFoundError:
            return False
        _flush_folder(place.parent)
        return True

    def clean(self) -> int:
        """Delete what killed runs left half-written; what living processes write is left alone."""
        removed = 0
        for leftover in self._incoming.iterdir():
            with unheld(leftover) as handle:
                if handle is not None:
                    leftover.unlink(missing_ok=True)
                    removed += 1
        return removed

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        with _own_errors(self._folder):
            handle, path = create_locked(self._incoming)
        try:
            yield handle, path
        finally:
            with _own_errors(self._folder):
                try:
                    path.unlink(missing_ok=True)  # already renamed when all went well
                finally:
                    os.close(handle)

    def _publish(self, handle: int, temporary: Path, place: Path) -> None:
        with _own_errors(self._folder):
            os.fchmod(handle, 0o444)
            os.fsync(handle)
            try:
                place.parent.mkdir()
                _flush_folder(self._folder)
            except FileExistsError:
                pass
            temporary.rename(place)
            _flush_folder(place.parent)

    def _check_room(self, size: int) -> None:
        with _own_errors(self._folder):
            disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._min_free_bytes:
            raise DiskFull(
                f"{free / 1e9:.1f} GB free at {self._folder}, and {self._min_free_bytes / 1e9:.1f} GB must stay free",
                _REMEDY,
            )


def locate(medium: KnownMedium) -> Path:
    """Where the content of a medium can be read.

    Raises:
        InputError: a linked original is gone, or is not the file any more that was taken in; or retention removed it
        CorruptMedia: our own copy is gone or has another size
    """
    if medium.original_removed_at is not None:
        raise InputError(why_removed(medium.original_removed_at), "analyze the file once more to bring it back")
    if medium.linked_mtime_ns is None:
        if not _holds(medium.stored, medium.bytes):
            raise CorruptMedia(f"the stored original of {medium.name!r} is damaged", "analyze the file once more")
        return medium.stored
    try:
        stat = medium.stored.stat()
    except OSError as error:
        raise InputError(
            f"the linked original {medium.path!r} cannot be read: {error.strerror}",
            "put the file back, or analyze it where it is now",
        ) from None
    if (stat.st_size, stat.st_mtime_ns) != (medium.bytes, medium.linked_mtime_ns):
        raise InputError(
            f"the linked original {medium.path!r} has changed since it was taken in", "analyze the file once more"
        )
    return medium.stored


def why_removed(at: datetime) -> str:
    """Why there is no original."""
    return f"the original was removed by retention on {at:%Y-%m-%d}"


def content_hash(source: int, expected: os.stat_result) -> str:
    """sha256 of an open file in hex digits, for originals that stay where they are.

    Raises:
        ContentChangedError: it was written to meanwhile
        OSError: it cannot be read
    """
    media_id = _hash(source, expected.st_size)
    _check_unchanged(source, expected)
    return media_id


def _check_unchanged(source: int, expected: os.stat_result) -> None:
    if stamp(os.fstat(source)) != stamp(expected):
        raise ContentChangedError


def _hash(source: int, size: int, write: Callable[[memoryview], None] | None = None) -> str:
    digest, offset = hashlib.sha256(), 0
    block = bytearray(min(BLOCK, size + 1))
    view = memoryview(block)
    # One byte more than expected is asked for at the end: a file that grows is noticed, an endless one ends.
    while count := os.preadv(source, [view[: min(len(block), size + 1 - offset)]], offset):
        offset += count
        if offset > size:
            raise ContentChangedError
        digest.update(view[:count])
        if write is not None:
            write(view[:count])
    if offset != size:
        raise ContentChangedError
    return digest.hexdigest()


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _cloned(source: int, target: int) -> bool:
    # Instant on Btrfs, XFS and bcachefs; every other file system says no at once.
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _holds(place: Path, size: int) -> bool:
    try:
        return place.stat().st_size == size
    except OSError:
        return False


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _own_errors(folder: Path) -> Iterator[None]:
    """What the store says is told from what a source says: no file is to blame for it, but for its size."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"no room left at {folder}", _REMEDY) from error
        if error.errno == errno.EFBIG:
            raise LimitExceeded(
                f"the file system of {folder} takes no file of this size",
                "keep originals on another or set MEDIA_PIPELINE_LINK_ORIGINALS=true, and analyze the file once more",
            ) from error
        raise StorageUnavailable(
            f"originals cannot be stored in {folder}: {error.strerror or error}",
            "mend the disk, or this user's rights there; intake goes on from where it stopped",
        ) from error
