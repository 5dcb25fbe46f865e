"""A home at one instant as a folder tree, for a program that reads files: what the backup of an installation reads.

The instant is that of `backup` (`_backup_cut`). What never changes is not copied:

- Files of tables become hard links. An erasure or `vacuum` that removes them meanwhile takes nothing from the view.
  A link shares the fate of its file, so it is no backup; here it only has to last until the view has been read, and the
  tree is removed then. Where links are impossible, the file is copied.
- Originals, the inbox and receipts are not in the tree: they are read where they lie, afterwards. A link would touch
  the time by which unchanged files are known, and originals are stored before anything speaks of them. Receipts have to
  be read last, as in `backup`.

Copied are databases, each as it was at the instant, and small files that somebody may write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from media_pipeline.errors import MediaPipelineError, StorageConflict, UsageError
from media_pipeline.storage._backup_copy import CACHE, ORIGINALS
from media_pipeline.storage._backup_cut import (
    LAST_CHECKPOINT,
    LOG,
    TableCut,
    connect,
    copy_database,
    newest,
    take_cut,
)
from media_pipeline.storage._backup_manifest import TableVersion
from media_pipeline.storage._backup_restore import RECEIPTS
from media_pipeline.storage._backup_scan import Found, scan
from media_pipeline.storage.disk import disk_full_explained, is_disk_full
from media_pipeline.storage.layout import RESTORING, Layout

INBOX = "inbox"
IN_PLACE = (INBOX, ORIGINALS, RECEIPTS)  # read where they lie, in this order
_WITHOUT = (CACHE, "models")
_CUTS = 5  # instants tried while erasures remove the files of their versions
_LINKED_FROM_BYTES = 16 << 20  # of a file that might be written to: smaller ones are copied, and looked at twice
_READS = 3


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A version of a table, and what it holds."""

    path: str  # below the home
    version: int
    files: int
    rows: int
    digest: str  # sha256 over the names and contents of its Parquet files: the rows, to the bit


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """A SQLite file in the view."""

    path: str
    digest: str  # sha256 of the file
    rows: Mapping[str, int]  # by table


@dataclass(slots=True)
class View:
    """What was laid out."""

    tables: tuple[TableFacts, ...] = ()
    databases: tuple[DatabaseFacts, ...] = ()
    originals: int = 0  # files, at about the instant
    originals_bytes: int = 0
    folders: Mapping[str, int] = field(default_factory=dict)  # permissions by path
    left_out: dict[str, str] = field(default_factory=dict)  # reason by path
    linked_outside: int = 0
    linked: int = 0
    copied_bytes: int = 0


class Digests:
    """sha256 of files that never change, remembered from one backup to the next."""

    def __init__(self, known: Mapping[str, str] | None = None, tick: Callable[[], None] = lambda: None) -> None:
        self._known, self._tick = dict(known or {}), tick
        self.used: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """Of a file known by its inode, size and time: its links and its name tell nothing."""
        status = path.stat()
        key = f"{status.st_dev}.{status.st_ino}.{status.st_size}.{status.st_mtime_ns}"
        digest = self.used.get(key) or self._known.get(key)
        if digest is None:
            self._tick()
            digest = sha256(path)
        self.used[key] = digest
        return digest


def lay_out(layout: Layout, target: Path, digests: Digests | None = None) -> View:
    """Makes the tree in this folder of the home's disk, anew; the caller removes it when it has been read.

    Raises:
        UsageError: there is no home, or it is being restored.
        StorageConflict: the home changes too fast.
        DiskFull: no room for the copies.
    """
    if not layout.sources.exists():
        raise UsageError(f"{layout.home} is no home", "name one with --home")
    if (layout.home / RESTORING).exists():
        raise UsageError(f"{layout.home} is being restored", "let it finish first")
    digests = digests or Digests()
    for _ in range(_CUTS):
        shutil.rmtree(target, ignore_errors=True)
        try:
            with disk_full_explained(target.parent):
                target.mkdir(mode=0o700, parents=True)
                return _lay_out(layout, target, digests)
        except _VersionGoneError:
            continue
    raise StorageConflict("files of the tables were removed again and again meanwhile", "try again later")


def table_facts(home: Path, path: str, version: int | None = None, digests: Digests | None = None) -> TableFacts:
    """What a table holds now, or held at a version.

    Raises:
        FileNotFoundError: it has no such version any more.
    """
    try:
        cut = newest(home / path) if version is None else TableCut(home / path, version, (), None)
        if cut is None:
            raise FileNotFoundError(home / path)
        facts, sizes = cut.files(home)
        digest = _digest(home / path, sizes, digests or Digests())
    except Exception as error:  # delta-rs has no error of its own for a version that is gone
        raise FileNotFoundError(f"{path}: {error}") from error
    return _facts(facts, digest)


def read_rows(home: Path, path: str, version: int) -> int:
    """Reads every value of a version of a table; the number of rows found in its files."""
    _, sizes = TableCut(home / path, version, (), None).files(home)
    rows = 0
    for name in sizes:
        with pq.ParquetFile(home / path / name) as file:
            rows += sum(batch.num_rows for batch in file.iter_batches())
    return rows


def database_facts(file: Path, name: str) -> DatabaseFacts:
    """Of a SQLite file that nobody has open.

    Raises:
        sqlite3.DatabaseError: it is none, or a damaged one.
    """
    digest = sha256(file)  # before it is opened: opening may write to it
    # Immutable: nothing beside it is looked at and nothing is written.
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as database:
        answer = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        counted = {
            table: database.execute(f'SELECT count(*) FROM "{table.replace(chr(34), chr(34) * 2)}"').fetchone()[0]  # noqa: S608
            for table in names
        }
    return DatabaseFacts(name, digest, counted)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _VersionGoneError(Exception):
    """Files of the noted version were removed before they were linked."""


def _lay_out(layout: Layout, target: Path, digests: Digests) -> View:
    view = View()
    copies: list[str] = []
    with ExitStack() as stack:
        cut = take_cut(layout, stack)
        # First the links: what is removed later stays in the view.
        linked = [_link_table(layout.home, table, target, view) for table in cut.tables]
        found = scan(layout, without=_WITHOUT)
        for path, database in cut.databases.items():
            name = str(path.relative_to(layout.home))
            _copy_database(database, path, target / name, name, view)
            copies.append(name)
        view.linked_outside = _linked_outside(cut.databases.get(layout.sources))
    view.left_out |= found.left_out
    view.folders = found.folders
    pinned = frozenset(copies)
    for file in found.files:
        top = file.name.partition(os.sep)[0]
        if top == ORIGINALS:
            view.originals += 1
            view.originals_bytes += file.stat.st_size
        if top in IN_PLACE or file.name in pinned:
            continue
        if file.database:
            if file.path.exists():  # SQLite would make it anew
                copies.append(file.name)
                with closing(connect(file.path)) as connection:
                    _copy_database(connection, file.path, target / file.name, file.name, view)
        else:
            _place(file, target / file.name, view)
    for folder, mode in sorted(found.folders.items(), reverse=True):
        if folder.partition(os.sep)[0] not in IN_PLACE:
            (target / folder).mkdir(parents=True, exist_ok=True)
            (target / folder).chmod(mode | 0o700)  # it has to be removed again
    # Nobody has to wait for what is read from here on.
    view.tables = tuple(_facts(facts, _digest(target / facts.path, sizes, digests)) for facts, sizes in linked)
    view.databases = tuple(_database_facts(target, name, view) for name in copies if name not in view.left_out)
    return view


def _link_table(home: Path, table: TableCut, target: Path, view: View) -> tuple[TableVersion, Mapping[str, int]]:
    try:
        facts, sizes = table.files(home)
        folder = target / facts.path
        (folder / LOG).mkdir(parents=True)
        for name in [*sizes, *(f"{LOG}/{name}" for name in table.log)]:
            _link(table.folder / name, folder / name, view)
    except FileNotFoundError as error:
        raise _VersionGoneError(table.folder) from error
    except PermissionError as error:
        raise MediaPipelineError(
            f"{error.filename} cannot be read: {error.strerror}", "give this user access"
        ) from error
    if table.last_checkpoint is not None:
        (folder / LOG / LAST_CHECKPOINT).write_bytes(table.last_checkpoint)
    return facts, sizes


def _facts(version: TableVersion, digest: str) -> TableFacts:
    return TableFacts(version.path, version.version, version.files, version.rows, digest)


def _digest(folder: Path, names: Mapping[str, int], digests: Digests) -> str:
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(f"{name} {digests.of(folder / name)}\n".encode())
    return whole.hexdigest()


def _link(source: Path, target: Path, view: View) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
        view.linked += 1
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_disk_full(error, target.parent):
            raise
        # Another disk, one without links, too many of them, or a file of somebody else's. With its time: a copy of a
        # file that never changes is known by it.
        shutil.copy2(source, target)
        view.copied_bytes += target.stat().st_size


def _copy_database(source: sqlite3.Connection, path: Path, target: Path, name: str, view: View) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        copy_database(source, target)
    except sqlite3.DatabaseError as error:
        if is_disk_full(error, target.parent):
            raise
        view.left_out[name] = f"SQLite cannot read it: {error}"
        target.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        target.chmod(path.stat().st_mode & 0o777)
    view.copied_bytes += target.stat().st_size


def _database_facts(target: Path, name: str, view: View) -> DatabaseFacts:
    try:
        return database_facts(target / name, name)
    except sqlite3.DatabaseError as error:
        # A copy of a damaged database is better than none; it is said.
        view.left_out[name] = f"SQLite finds it damaged: {error}"
        return DatabaseFacts(name, sha256(target / name), {})


def _place(file: Found, target: Path, view: View) -> None:
    """One that vanishes was removed on purpose."""
    try:
        if file.stat.st_size >= _LINKED_FROM_BYTES:
            _link(file.path, target, view)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_READS):
            before = file.path.stat()
            shutil.copy2(file.path, target)
            after = file.path.stat()
            if (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino):
                view.copied_bytes += after.st_size
                return
        view.left_out[file.name] = "somebody was writing to it"
    except FileNotFoundError:
        pass
    except PermissionError as error:
        view.left_out[file.name] = f"cannot be read: {error.strerror}"
    target.unlink(missing_ok=True)


def _linked_outside(sources: sqlite3.Connection | None) -> int:
    if sources is None:
        return 0
    (linked,) = sources.execute("SELECT count(*) FROM media WHERE substr(stored, 1, 1) = x'2f'").fetchone()
    return int(linked)


def in_place(layout: Layout) -> Iterator[str]:
    """The folders that are read where they lie, by name below the home; of one that is a link, what is in it."""
    for name in IN_PLACE:
        folder = layout.home / name
        if folder.is_symlink():  # on another disk; a program that archives would store the link alone
            yield from (f"{name}/{entry.name}" for entry in sorted(os.scandir(folder), key=lambda e: e.name))
        elif folder.is_dir():
            yield name
