"""How a full disk is recognised, whichever library runs into it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from media_pipeline.config import MIB
from media_pipeline.errors import DiskFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# delta-rs hands on the text of the operating system only, SQLAlchemy and Dagster that of SQLite.
_SAYINGS = (*(f"os error {code}" for code in _NO_ROOM), *map(os.strerror, _NO_ROOM), "database or disk is full")
# SQLite reports a write-ahead log or index that cannot grow as an I/O error; with so little left it means no room.
_SQLITE_IO_ERROR = "disk I/O error"
_NEXT_TO_NOTHING_BYTES = 16 * MIB


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Turns every way in which Arrow, delta-rs, DuckDB, SQLite and Dagster report a full disk into `DiskFull`."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error, folder):
            raise
        raise DiskFull(
            f"no room left on the device of {folder}",
            "free some space and run it again; nothing half-written is visible",
        ) from error


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether this error, met while writing below `folder`, comes from a lack of room."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return True
    text = str(error)
    if any(saying in text for saying in _SAYINGS):
        return True
    return _SQLITE_IO_ERROR in text and shutil.disk_usage(folder).free < _NEXT_TO_NOTHING_BYTES
