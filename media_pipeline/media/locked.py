"""Files that are locked while their writer lives, which tells them from what a killed one left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def create_locked(folder: Path, suffix: str = "") -> tuple[int, Path]:
    """A new file of a random name, open for reading and writing; locked until it is closed.

    Raises:
        OSError: it cannot be made, or this file system knows no locks.
    """
    while True:
        path = folder / f"{secrets.token_hex(16)}{suffix}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        if os.fstat(handle).st_nlink:  # 0: a cleaner came between the two calls above
            return handle, path
        os.close(handle)


@contextmanager
def unheld(path: Path) -> Iterator[int | None]:
    """The file, open for reading, where nobody holds its lock; None where its writer lives or has just finished."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield handle if _is_free(handle) else None
    finally:
        os.close(handle)


def _is_free(handle: int) -> bool:
    try:
        # Shared: NFS gives an exclusive lock to those only who have the file open for writing (flock(2)).
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or nothing can be said
        return False
    return True
