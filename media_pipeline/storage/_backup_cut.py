"""One instant of a home that is being written to.

The versions of all tables are noted twice. Where both notes are the same, no table changed from the first to the
second, so the tables stood like this all at once: versions only ever grow. In between a reading transaction is opened
in each database of the home, which keeps seeing its database as it was then.

An instant is enough: whoever writes rows and the ledger entry that speaks of them withdraws the old entry, replaces
the rows and records the new one, so at every instant the ledger speaks of rows that are there. A snapshot is what the
disk would hold had the power gone off just then, and that the home recovers from by design. Reading one table after
the other would not do, in no order: the ledger first could speak of rows replaced or erased since, the ledger last of
rows written since.

Files of a version never change and stay for the retention time of `vacuum`, so copying them needs no lock. An erasure
removes them at once: the copy then meets a file that is gone, and another instant is taken.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from media_pipeline.errors import StorageConflict
from media_pipeline.storage._backup_manifest import TableVersion
from media_pipeline.storage.file_system import is_shared
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sqlite import BUSY_TIMEOUT_S

LOG = "_delta_log"
LAST_CHECKPOINT = "_last_checkpoint"
SQLITE_MAGIC = b"SQLite format 3\0"
DATABASE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
# Commits come every few seconds, a look takes milliseconds.
_TRIES = 100
_PAUSE_S = 0.05
_COMMIT = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True, slots=True)
class TableCut:
    """One version of a Delta table and the files of its log that describe it."""

    folder: Path
    version: int
    log: tuple[str, ...]
    last_checkpoint: bytes | None  # it is overwritten with every checkpoint, so its content is kept here

    def files(self, home: Path) -> tuple[TableVersion, dict[str, int]]:
        """The facts of this version, and the sizes of its Parquet files by name.

        Raises:
            FileNotFoundError: the log has been cleaned meanwhile.
        """
        try:
            delta = DeltaTable(self.folder.absolute().as_uri(), version=self.version)
            actions = pa.RecordBatchReader.from_stream(delta.get_add_actions()).read_all()
        except Exception as error:  # delta-rs has no error of its own for a log whose files vanish
            if all((self.folder / LOG / name).exists() for name in self.log):
                raise
            raise FileNotFoundError(self.folder) from error
        sizes = dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))
        rows = sum(count or 0 for count in actions["num_records"].to_pylist())
        return TableVersion(str(self.folder.relative_to(home)), self.version, len(sizes), rows), sizes


@dataclass(frozen=True, slots=True)
class Cut:
    """The tables and databases of a home at one instant."""

    tables: tuple[TableCut, ...]
    databases: Mapping[Path, sqlite3.Connection] = field(repr=False)  # each at that instant, whatever is written


def take_cut(layout: Layout, stack: ExitStack) -> Cut:
    """The instant; its databases stay open until the stack is closed.

    Raises:
        StorageConflict: tables changed faster than they could be looked at.
    """
    for _ in range(_TRIES):
        with ExitStack() as opened:
            before = _tables(layout)
            databases = {path: opened.enter_context(_reading(path)) for path in _databases(layout.home)}
            if _tables(layout) == before:
                stack.push(opened.pop_all())
                return Cut(tuple(before), databases)
        time.sleep(_PAUSE_S)
    raise StorageConflict(f"the tables of {layout.home} changed {_TRIES} times while looked at", "try again later")


def newest(folder: Path) -> TableCut | None:
    """The present version of one table; None where there is none."""
    return _table(folder / LOG) if (folder / LOG).is_dir() else None


def is_database(path: Path) -> bool:
    """Whether this is a file of SQLite, which must not be copied while somebody writes to it."""
    if not path.name.endswith(DATABASE_SUFFIXES):
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def copy_database(source: sqlite3.Connection, target: Path) -> None:
    """What the connection sees, as one file without a write-ahead log."""
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def connect(path: Path) -> sqlite3.Connection:
    """A connection for reading. Not read-only to SQLite: the log of a database could then not be opened."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if is_shared(path):
        # Without a write-ahead log who reads holds up who writes. A temporary file of SQLite's does not.
        with closing(sqlite3.connect("")) as copied:
            with closing(connect(path)) as db:
                db.backup(copied)
            yield copied
        return
    with closing(connect(path)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it sees this state
        yield db


def _databases(home: Path) -> Iterator[Path]:
    yield from (path for path in sorted(home.iterdir()) if path.is_file() and is_database(path))


def _tables(layout: Layout) -> list[TableCut]:
    return [
        cut
        for root in (layout.tables, layout.kept)
        for log in sorted(root.glob(f"*/{LOG}"))
        if (cut := _table(log)) is not None
    ]


def _table(log: Path) -> TableCut | None:
    """The newest version; None where the first one is still being made."""
    try:
        last_checkpoint = (log / LAST_CHECKPOINT).read_bytes()
        checkpoint = int(json.loads(last_checkpoint)["version"])
    except FileNotFoundError:
        last_checkpoint, checkpoint = None, -1
    names = sorted(path.name for path in log.iterdir())
    commits = {int(match[1]): name for name in names if (match := _COMMIT.fullmatch(name))}
    if not commits:
        return None
    # The checkpoint holds all that came before it.
    wanted = [name for version, name in commits.items() if version >= checkpoint]
    wanted += [name for name in names if name.startswith(f"{checkpoint:020}.checkpoint")]
    return TableCut(log.parent, max(commits), tuple(wanted), last_checkpoint)
