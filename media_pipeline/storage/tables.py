"""Delta tables, one per name: the store of every result.

A table is a folder of immutable Parquet files and a log; one new log entry switches from one set of files to the
next. `replace` rewrites exactly the files that hold the media in question and commits against the version it has read:
if another process was faster, the commit fails and everything is looked at again. The lock only spares that work;
correctness does not hang on it. A process that dies leaves files nobody names, which `vacuum` removes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from filelock import FileLock, Timeout

from media_pipeline.errors import ContractViolation, DiskFull, StorageConflict, UsageError
from media_pipeline.storage._files import (
    COMPACT_BELOW,
    MERGE_CLASSES,
    MERGE_COUNT,
    DataFile,
    declared_schema,
    drop_log_before,
    fitted,
    missing_columns,
    neighbours,
    order_of,
    read_file,
    size_class,
    stored_schema,
    write_file,
)
from media_pipeline.storage._media_index import MediaIndex
from media_pipeline.storage._snapshot import CHECKPOINT_COMMITS, EXACT, Seen, Snapshot, commit
from media_pipeline.storage.disk import disk_full_explained

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOCK_TIMEOUT_S = 300.0  # longer than any compaction; a dead holder's lock is released by the kernel at once
BACKOFF_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
RETENTION_HOURS = 24  # how long a file that is no longer current stays for readers that still hold its name

_CONFIGURATION = {
    "delta.checkpointInterval": str(CHECKPOINT_COMMITS),
    "delta.logRetentionDuration": "interval 7 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies on the disk of one version of a table, for readers that go to the files themselves."""

    version: int
    files: tuple[str, ...]  # absolute paths, in order of writing
    schema: pa.Schema
    columns: frozenset[str]  # that at least one file has; a column added since the last write is in none


class Tables:
    """The Delta tables below one folder. Safe to use from several threads and processes at once.

    Rows of one medium always lie in one file, in the order in which they were written.
    """

    def __init__(self, root: Path, locks: Path) -> None:
        if "%" in str(root):
            # delta-rs decodes it once more than it should and looks in another folder.
            raise UsageError(f"the path {root} contains a percent sign", "choose another home")
        self._root = root
        self._locks = locks
        self._indexes: dict[str, MediaIndex] = {}
        self._seen: dict[str, Seen] = {}

    # ------------------------------------------------------------------ shape

    def exists(self, name: str) -> bool:
        log = self._root / name / "_delta_log"
        # The first entry may have expired; then there is a checkpoint.
        return (log / f"{0:020}.json").exists() or (log / "_last_checkpoint").exists()

    def ensure(self, name: str, schema: pa.Schema) -> None:
        """Creates the table, or adds the columns it lacks. Columns are never removed.

        Raises:
            ContractViolation: a column exists with another type, or has one that Delta cannot keep.
        """
        wanted = stored_schema(schema)
        if self.exists(name) and not missing_columns(name, self._look(name).schema, wanted):
            return
        with self._locked(name):
            self._retrying(name, lambda: self._grow(name, wanted))

    def _grow(self, name: str, wanted: pa.Schema) -> None:
        (self._root / name).mkdir(parents=True, exist_ok=True)
        # Exact: a create that retries itself lands on top of another's first version and undoes its columns.
        DeltaTable.create(
            self._uri(name),
            wanted,
            mode="ignore",
            name=name,
            configuration=_CONFIGURATION,
            commit_properties=EXACT,
        )
        snapshot = self._open(name)
        missing = missing_columns(name, snapshot.schema, wanted)
        if missing:
            fields = Schema.from_arrow(pa.schema(missing)).fields
            snapshot.delta.alter.add_columns(list(fields), commit_properties=EXACT)

    def schema(self, name: str) -> pa.Schema:
        return declared_schema(self._look(name).schema)

    # ------------------------------------------------------------------ rows

    def replace(self, name: str, rows: pa.Table, media_ids: Collection[str]) -> None:
        """Afterwards the rows of these media are exactly `rows`: one commit, atomic, repeatable.

        Media without rows lose theirs. Columns that `rows` lacks are null.

        Raises:
            ContractViolation: rows of other media, or columns the table does not have.
            StorageConflict, DiskFull: nothing has changed.
        """
        self.update(name, media_ids, lambda _: rows, read=False)

    def delete(self, name: str, media_ids: Collection[str]) -> None:
        """Removes the rows of these media, if the table and the rows exist."""
        if self.exists(name):
            self.update(name, media_ids, lambda old: old, read=False)

    def update(
        self,
        name: str,
        media_ids: Collection[str],
        change: Callable[[pa.Table], pa.Table],
        *,
        read: bool = True,
    ) -> None:
        """`replace` with rows computed from the present ones, which nobody changes in between.

        `change` gets the rows of these media (none of them if `read` is false) and may be called several times.
        """
        ids = set(media_ids)

        def attempt() -> Snapshot:
            snapshot = self._take(name)
            old = self._rows(name, snapshot, ids) if read else declared_schema(snapshot.schema).empty_table()
            return self._swap(name, snapshot, fitted(name, change(old), snapshot.schema, ids), ids)

        with self._locked(name):
            self._seen[name] = Seen(self._root / name, self._tidy(name, self._retrying(name, attempt)))

    def read(
        self,
        name: str,
        media_ids: Collection[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of these media (all if None), sorted by media_id, else in the order of writing.

        Raises:
            ContractViolation: there is no such table or column.
        """
        return self._rows(name, self._look(name), None if media_ids is None else set(media_ids), columns)

    # ------------------------------------------------------------------ files

    def version(self, name: str) -> int:
        return self._look(name).version

    def folder(self, name: str) -> Path:
        """Where its files lie, also for some time those that are no longer current."""
        return self._root / name

    def files(self, name: str) -> list[str]:
        """Absolute paths of the current Parquet files, in order of writing; none where there is no table."""
        return self._paths(name, self._look(name).files) if self.exists(name) else []

    def stored(self, name: str, media_ids: Collection[str] | None = None) -> Stored:
        """The current version as its files, or those of them that may hold these media.

        They stay readable for the retention time of `vacuum`.
        """
        snapshot = self._look(name)
        columns: set[str] = set()
        paths = self._paths(name, self._index(name).holding(snapshot.files, media_ids))
        for path in reversed(paths):  # the newest file has them all, except right after a column was added
            if columns.issuperset(snapshot.schema.names):
                break
            columns.update(pq.read_schema(path).names)
        return Stored(snapshot.version, tuple(paths), declared_schema(snapshot.schema), frozenset(columns))

    def compact(self, name: str) -> None:
        """Merges small files, whatever their number, and writes a checkpoint. Rows stay the same."""
        with self._locked(name):
            self._retrying(name, lambda: self._merge(name, self._open(name), COMPACT_BELOW))
            self._open(name).delta.create_checkpoint()

    def vacuum(self, name: str, keep: Collection[str] = (), retention_hours: int = RETENTION_HOURS) -> list[str]:
        """Removes files that no version younger than the retention and none of `keep` (absolute paths) names.

        Returns the paths it removed.
        """
        folder = self._root / name
        kept = {Path(path) for path in keep}
        with self._locked(name):
            stale = self._open(name).delta.vacuum(
                retention_hours, dry_run=True, enforce_retention_duration=False, full=True
            )
            removed = [path for path in (folder / Path(entry).name for entry in stale) if path not in kept]
            for path in removed:
                path.unlink(missing_ok=True)
            self._index(name).clean()
        return [str(path) for path in removed]

    def names(self) -> list[str]:
        """The tables that lie here, whoever made them."""
        return sorted(path.name for path in self._root.glob("*") if self.exists(path.name))

    def purge(self, name: str) -> list[str]:
        """Removes all history: data files and log entries of earlier versions. Who still reads one of them fails.

        Returns the removed data files.
        """
        with self._locked(name):
            self._open(name).delta.create_checkpoint()
            drop_log_before(self._root / name, self._open(name).version)
        return self.vacuum(name, retention_hours=0)

    # ------------------------------------------------------------------ inner workings

    def _uri(self, name: str) -> str:
        return (self._root / name).absolute().as_uri()

    def _index(self, name: str) -> MediaIndex:
        return self._indexes.setdefault(name, MediaIndex(self._root / name))

    def _look(self, name: str) -> Snapshot:
        """The present version for readers: what was seen before, unless the log has a newer entry or is another one."""
        seen = self._seen.get(name)
        if seen is None or not seen.is_newest():
            seen = self._seen[name] = Seen(self._root / name, self._open(name))
        return seen.snapshot

    def _take(self, name: str) -> Snapshot:
        """The present version for one writer, whose commit moves it on: nobody else gets to see it from here on."""
        seen = self._seen.pop(name, None)
        return seen.snapshot if seen is not None and seen.is_newest() else self._open(name)

    def _open(self, name: str) -> Snapshot:
        try:
            delta = DeltaTable(self._uri(name))
        except TableNotFoundError:
            raise ContractViolation(f"there is no table {name} in {self._root}", "create it with ensure()") from None
        return Snapshot.of(delta)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._locks.mkdir(parents=True, exist_ok=True)
        # A soft lock would outlive a killed process; a lock of the kernel does not.
        lock = FileLock(self._locks / f"table-{name}.lock", fallback_to_soft=False, poll_interval=0.01)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise StorageConflict(f"table {name} was locked for {LOCK_TIMEOUT_S:.0f} s", "try again later") from None
        try:
            yield
        finally:
            lock.release()

    def _retrying(self, name: str, attempt: Callable[[], T]) -> T:
        for pause in BACKOFF_S:
            time.sleep(pause)
            try:
                with disk_full_explained(self._root):
                    return attempt()
            except CommitFailedError:
                logger.debug("table %s: another writer was faster, looking again", name)
        raise StorageConflict(f"other writers of table {name} were faster {len(BACKOFF_S)} times", "try again later")

    def _rows(
        self,
        name: str,
        snapshot: Snapshot,
        media_ids: set[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        declared = declared_schema(snapshot.schema)
        wanted = declared.names if columns is None else list(columns)
        unknown = [column for column in wanted if column not in declared.names]
        if unknown:
            raise ContractViolation(f"table {name} has no column {', '.join(unknown)}", f"it has {declared.names}")
        files = self._index(name).holding(snapshot.files, media_ids)
        rows = self._load(name, files, snapshot.schema, list(dict.fromkeys(["media_id", *wanted])), media_ids)
        # Stable: ties keep the order of writing.
        rows = rows.take(pc.sort_indices(rows["media_id"]))
        return rows.select(wanted).cast(pa.schema([declared.field(column) for column in wanted]))

    def _swap(self, name: str, snapshot: Snapshot, rows: pa.Table, media_ids: set[str]) -> Snapshot:
        """One commit from the snapshot to the same without these media's old rows and with the new ones."""
        adds: list[AddAction] = []
        removes: list[RemoveAction] = []
        with self._discarding(name, adds):
            for file in self._index(name).holding(snapshot.files, media_ids):
                present = self._load(name, [file], snapshot.schema)
                rest = present.filter(pc.invert(pc.is_in(present["media_id"], pa.array(media_ids, pa.string()))))
                if rest.num_rows == present.num_rows:
                    continue  # a hash collision
                removes.append(file.remove_action(data_change=True))
                if rest.num_rows:
                    adds.append(self._write(name, rest, order_of(file.name), data_change=True))
            if rows.num_rows:
                adds.append(self._write(name, rows, snapshot.next_order, data_change=True))
            return commit(snapshot, adds, removes)

    def _write(self, name: str, rows: pa.Table, order: str, *, data_change: bool) -> AddAction:
        action = write_file(self._root / name, rows, order, data_change=data_change)
        self._index(name).add(action.path, rows["media_id"])
        return action

    def _tidy(self, name: str, snapshot: Snapshot) -> Snapshot:
        """Merges where enough small files have gathered. The rows are safe already, so no failure of it matters."""
        try:
            for limit in MERGE_CLASSES:
                if sum(size_class(file) == limit for file in snapshot.files) >= MERGE_COUNT:
                    snapshot = self._merge(name, snapshot, limit)
        except (CommitFailedError, DiskFull) as error:
            logger.warning("table %s is left in many small files for now: %s", name, error)
        return snapshot

    def _merge(self, name: str, snapshot: Snapshot, limit: int) -> Snapshot:
        """Merges neighbours among the files below `limit`, about `MERGED_BYTES` of them in memory at a time.

        Neighbours in order of writing, not of media_id: media that came together are analysed again together, and
        then touch few files. Within a file rows are sorted, so that a filter on media_id skips row groups.
        """
        adds: list[AddAction] = []
        removes: list[RemoveAction] = []
        with self._discarding(name, adds):
            for group in neighbours([file for file in snapshot.files if file.size < limit]):
                rows = self._load(name, group, snapshot.schema).combine_chunks()  # from one piece rows are taken faster
                rows = rows.take(pc.sort_indices(rows["media_id"]))
                adds.append(self._write(name, rows, order_of(group[0].name), data_change=False))
                removes.extend(file.remove_action(data_change=False) for file in group)
            return commit(snapshot, adds, removes)

    def _load(
        self,
        name: str,
        files: Sequence[DataFile],
        schema: pa.Schema,
        columns: list[str] | None = None,
        media_ids: Collection[str] | None = None,
    ) -> pa.Table:
        fields = schema if columns is None else pa.schema([schema.field(column) for column in columns])
        parts = [read_file(path, fields, media_ids) for path in self._paths(name, files)]
        return pa.concat_tables(parts) if parts else fields.empty_table()

    def _paths(self, name: str, files: Sequence[DataFile]) -> list[str]:
        folder = str(self._root / name)  # once: making a Path for each costs more than a search of them
        return [f"{folder}/{file.name}" for file in files]

    @contextmanager
    def _discarding(self, name: str, adds: list[AddAction]) -> Iterator[None]:
        """Removes the files of a commit that did not happen. A commit may fail after it happened: the table knows."""
        try:
            yield
        except (CommitFailedError, DeltaError, OSError, DiskFull):
            current = {file.name for file in self._open(name).files}
            for add in adds:
                if add.path not in current:
                    (self._root / name / add.path).unlink(missing_ok=True)
            raise
