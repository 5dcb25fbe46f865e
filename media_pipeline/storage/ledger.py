"""The ledger: what has been done to which medium, by which analyzer, with which fingerprint.

It decides what is computed again; Dagster's own bookkeeping never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media_pipeline.storage.schemas import ANALYSES
from media_pipeline.storage.tables import Tables

TABLE = "analyses"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `analyses`: the latest word on one medium in one analyzer."""

    media_id: str
    analyzer: str
    fingerprint: str
    status: str  # done, failed, unavailable
    reason: str | None  # null when done
    rows: int
    seconds: float  # wall time
    device: str | None
    model: str | None
    run_id: str | None
    at: datetime  # with a time zone
    version: str | None = None  # of the analyzer; None in entries older than this column
    options: str | None = None  # digest of the analyzer's options


class Ledger:
    """Reads and writes the table `analyses`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def record(self, entries: Sequence[Entry]) -> None:
        """Replaces what was known of these (media_id, analyzer) pairs, in one commit; of equal pairs the last counts.

        Raises:
            StorageConflict, DiskFull: nothing has changed.
        """
        latest = {(e.media_id, e.analyzer): e for e in entries}
        if not latest:
            return
        self._tables.ensure(TABLE, ANALYSES)
        new = pa.Table.from_pylist([asdict(e) for e in latest.values()], schema=ANALYSES)

        def merged(old: pa.Table) -> pa.Table:
            pairs = zip(old["media_id"].to_pylist(), old["analyzer"].to_pylist(), strict=True)
            others = old.filter(pa.array([pair not in latest for pair in pairs], pa.bool_()))
            return pa.concat_tables([others.select(ANALYSES.names), new], promote_options="permissive")

        self._tables.update(TABLE, {media_id for media_id, _ in latest}, merged)

    def forget(self, pairs: Collection[tuple[str, str]]) -> None:
        """From here on nothing is known of these (media_id, analyzer) pairs.

        Whoever replaces rows by those of another fingerprint forgets first and records afterwards: killed in between,
        the ledger never speaks of rows that are not there.
        """
        gone = set(pairs)
        if not gone or not self._tables.exists(TABLE):
            return

        def without(old: pa.Table) -> pa.Table:
            found = zip(old["media_id"].to_pylist(), old["analyzer"].to_pylist(), strict=True)
            return old.filter(pa.array([pair not in gone for pair in found], pa.bool_()))

        self._tables.update(TABLE, {media_id for media_id, _ in gone}, without)

    def scan(self, columns: Sequence[str], media_ids: Sequence[str] | None = None) -> pa.Table:
        """These columns of all entries in no particular order, strings as dictionaries: millions of rows in a second.

        A column that no row has yet is null.

        Args:
            media_ids: only of these; then `media_id` must be among the columns
        """
        parts = [part if media_ids is None else _of_media(part, media_ids) for part in self.parts(columns)]
        table = pa.concat_tables(parts) if parts else _encoded_schema(columns).empty_table()
        return table.unify_dictionaries().combine_chunks()

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The same file by file, for who has no memory for millions of rows."""
        schema = _encoded_schema(columns)
        for path in self._tables.files(TABLE):
            yield _read(path, schema)

    def entries(
        self, media_ids: Collection[str] | None = None, analyzers: Collection[str] | None = None
    ) -> dict[tuple[str, str], Entry]:
        """Entries by (media_id, analyzer), of these media and analyzers or of all."""
        if not self._tables.exists(TABLE):
            return {}
        rows = self._rows(media_ids)
        if analyzers is not None:
            rows = rows.filter(pc.is_in(rows["analyzer"], pa.array(list(analyzers), pa.string())))
        return {(row["media_id"], row["analyzer"]): Entry(**row) for row in rows.to_pylist()}

    def counts(self) -> dict[str, dict[str, int]]:
        """How many media have which status: analyzer -> status -> number."""
        if not self._tables.exists(TABLE):
            return {}
        rows = self._tables.read(TABLE, columns=["analyzer", "status"])
        pairs = Counter(zip(rows["analyzer"].to_pylist(), rows["status"].to_pylist(), strict=True))
        counted: dict[str, dict[str, int]] = {}
        for (analyzer, status), count in sorted(pairs.items()):
            counted.setdefault(analyzer, {})[status] = count
        return counted

    def failures(self, media_ids: Collection[str] | None = None) -> list[Entry]:
        """Entries that are not done, with their reasons, the latest first."""
        if not self._tables.exists(TABLE):
            return []
        rows = self._rows(media_ids)
        rows = rows.filter(pc.not_equal(rows["status"], "done"))
        return sorted((Entry(**row) for row in rows.to_pylist()), key=lambda e: e.at, reverse=True)

    def _rows(self, media_ids: Collection[str] | None) -> pa.Table:
        """Rows as a home of any age has them: an old one may lack the latest columns."""
        rows = self._tables.read(TABLE, media_ids)
        return rows.select([name for name in ANALYSES.names if name in rows.column_names])


def _encoded_schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([_encoded(ANALYSES.field(name)) for name in columns])


def _of_media(part: pa.Table, media_ids: Sequence[str]) -> pa.Table:
    # Each id is compared once per file, not once per row.
    column = part["media_id"].unify_dictionaries().combine_chunks()
    wanted = pc.is_in(column.dictionary, value_set=pa.array(media_ids, pa.string()))
    return part.filter(wanted.take(column.indices))


def _encoded(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.dictionary(pa.int32(), pa.string())) if field.type == pa.string() else field


def _read(path: str, schema: pa.Schema) -> pa.Table:
    metadata = pq.read_metadata(path)
    present = [name for name in schema.names if name in metadata.schema.names]  # a file may be older than a column
    strings = [name for name in present if pa.types.is_dictionary(schema.field(name).type)]
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=strings) as file:
        rows = file.read(columns=present)
    columns = [rows[f.name].cast(f.type) if f.name in present else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)
