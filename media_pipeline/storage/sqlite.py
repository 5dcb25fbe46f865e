"""One SQLite file shared by threads and processes: short transactions, our errors, and a journal that fits its disk.

On a disk of this machine that is a write-ahead log. Its readers and writers find each other through memory that they
share, which those of several machines do not: with a write-ahead log on a network file system commits of one machine
are silently lost on another (seen). There the file has a rollback journal, which needs nothing but locks.

Whoever may not write into the folder of the file only reads it: what a monitor of the home needs.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from media_pipeline.errors import DiskFull, StorageConflict, UsageError
from media_pipeline.storage.disk import is_disk_full
from media_pipeline.storage.file_system import is_shared

# A connection inherited by a forked child must neither be used nor closed there: SQLite would take the parent's locks
# for its own. Kept here, it is not collected either.
_inherited: list[sqlite3.Connection] = []

BUSY_TIMEOUT_S = 30.0
# SQLite's own default limit was 999 parameters for years; distributions still build with it.
CHUNK = 900
_WAL_VERSIONS = b"\x02\x02"  # of who may write and read it: bytes 18 and 19 of the file format
T = TypeVar("T")


class Database:
    """A lazily opened connection per process.

    Where the folder cannot be written, the connection only reads, and may not see what others write later on: open
    anew for that.

    Args:
        file: made with its folder when missing
        ddl: statements that create what is missing; run once per `version`

    Raises (from every method):
        DiskFull: no room for the change; nothing of it was made
        StorageConflict: another process held the file for longer than `BUSY_TIMEOUT_S`
        UsageError: a newer version of this program wrote the file; or it only can be read, and an older one did
    """

    def __init__(self, file: Path, ddl: str, *, version: int) -> None:
        self._file = file
        self._ddl = ddl
        self._version = version
        self._lock = threading.RLock()
        self._pid = -1
        self._connection: sqlite3.Connection | None = None
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._db()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                self._connection = None

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock, _translated(self._file):
            return self._db().execute(sql, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, rolled back by any exception."""
        with self._lock, _translated(self._file):
            db = self._db()
            # IMMEDIATE: a transaction that reads before it writes could otherwise fail without waiting for the other.
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _db(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            if self._connection is not None:
                _inherited.append(self._connection)
            with _translated(self._file):
                self._connection, self._pid = self._connect(), os.getpid()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        only_read = not os.access(self._file.parent, os.W_OK, effective_ids=True)
        if only_read:
            db = connect_to_read(self._file)
        else:
            db = sqlite3.connect(self._file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            _set_journal(db, self._file)
        db.execute("PRAGMA foreign_keys = ON")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > self._version:
            raise UsageError(f"{self._file} was written by a newer version", "upgrade media-pipeline")
        if found < self._version and only_read:
            raise UsageError(
                f"{self._file} is of an older version and can only be read here", "open it for writing once"
            )
        if found < self._version:
            db.executescript(f"BEGIN IMMEDIATE; {self._ddl} PRAGMA user_version = {self._version}; COMMIT;")
        return db


def compact(file: Path) -> None:
    """Writes a file anew without free pages and empties its log: no byte of a deleted row stays. Others may go on.

    Raises:
        StorageConflict: readers or writers held it for longer than `BUSY_TIMEOUT_S`; it can be repeated.
    """
    if not file.exists():
        return
    with _translated(file), closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as db:
        _set_journal(db, file)
        db.execute("VACUUM")
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise StorageConflict(f"{file} is being read without a pause", "try again")
            time.sleep(0.1)


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Slices short enough for one IN list."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def connect_to_read(file: Path) -> sqlite3.Connection:
    """A connection for a process that may not write into the folder, with or without writers elsewhere.

    With a write-ahead log readers and writers share `-wal` and `-shm`. They are there as long as somebody has the file
    open for writing; without them SQLite refuses, because it could not make them. Then all is in the file itself, and
    it may be read as one that nobody changes. Should a writer come just then, a query fails or tells of before.
    """
    if not file.exists():
        raise UsageError(f"{file} is not there and cannot be made", "open the home for writing once")
    db = _read_only(file, "mode=ro")
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        # Of a file system that is mounted so it is the one, of a folder without the right to write the other.
        refused = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        if not refused or file.with_name(f"{file.name}-wal").exists():
            raise
        db = _read_only(file, "mode=ro&immutable=1")
    return db


def _read_only(file: Path, how: str) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _set_journal(db: sqlite3.Connection, file: Path) -> None:
    if is_shared(file):
        _leave_wal(db, file)
        # Not DELETE: where another machine has just looked for the journal, taking it away failed now and then.
        _switch_journal(db, "TRUNCATE")
    else:
        _switch_journal(db, "WAL")
        # NORMAL may lose the last instants before a power cut, never before a kill; and it never corrupts a write-ahead
        # log. A rollback journal wants FULL, which is the default.
        db.execute("PRAGMA synchronous = NORMAL")


def _switch_journal(db: sqlite3.Connection, mode: str) -> None:
    # Changing the journal mode does not wait for other processes as everything else does.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _leave_wal(db: sqlite3.Connection, file: Path) -> None:
    """Of a home that was moved here from a disk: the file says itself that it has a write-ahead log."""
    with file.open("rb") as header:
        if header.read(20)[18:] != _WAL_VERSIONS:
            return
    # Some network file systems refuse the shared memory. Who has the file to itself does without.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    _switch_journal(db, "TRUNCATE")
    db.execute("PRAGMA locking_mode = NORMAL")
    db.execute("SELECT 1 FROM sqlite_master").fetchone()  # the lock is let go by the next reading


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if is_disk_full(error, file.parent):
            raise DiskFull(f"no room to write {file}", "free some space and try again") from error
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageConflict(f"{file} stayed locked for {BUSY_TIMEOUT_S:.0f} s", "try again") from error
        raise
