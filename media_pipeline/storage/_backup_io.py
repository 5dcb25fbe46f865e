"""Reading, hashing and writing files so that a failing disk or a power cut is noticed."""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path

BLOCK = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class UnreadableError(Exception):
    """A file to be stored cannot be read: its disk says no, not that of the repository."""


def hashed(source: int, *, copy_to: int | None = None) -> tuple[str, int]:
    """sha256 in hex digits and size of an open file, from its beginning; copied on the way where asked.

    Raises:
        UnreadableError: the source fails.
    """
    digest, size, block = hashlib.sha256(), 0, bytearray(min(BLOCK, os.fstat(source).st_size + 1))
    while count := _read_into(source, block, size):
        data = memoryview(block)[:count]
        digest.update(data)
        if copy_to is not None:
            write_all(copy_to, data)
        size += count
    return digest.hexdigest(), size


def _read_into(source: int, block: bytearray, offset: int) -> int:
    try:
        return os.preadv(source, [block], offset)
    except OSError as error:
        raise UnreadableError(error.strerror) from error


def read_at(source: int, wanted: int, offset: int) -> bytes:
    """Fewer bytes only at the end of the file."""
    found = bytearray()
    while len(found) < wanted and (data := os.pread(source, wanted - len(found), offset + len(found))):
        found += data
    return bytes(found)


def write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def write_file(path: Path, data: bytes) -> None:
    """A file that is complete on the disk, or not there."""
    partial = path.with_name(f"{path.name}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(handle, memoryview(data))
        os.fsync(handle)
    finally:
        os.close(handle)
    partial.rename(path)
    flush(path.parent)


def flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_disk(folder: Path) -> None:
    """All that was written to the disk of this folder is on it: one call for any number of files (syncfs(2))."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)
