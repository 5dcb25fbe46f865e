"""Parquet files of a table: writing whole ones, reading them, naming them, choosing those to be merged."""

from __future__ import annotations

import json
import os
import time
import uuid
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from media_pipeline.config import MIB
from media_pipeline.errors import ContractViolation
from media_pipeline.storage.disk import disk_full_explained

ROW_GROUP_ROWS = 16_384  # small enough that DuckDB can skip what a filter on media_id does not need
# Rows with vectors are looked up one by one when they are found: a row is read with the whole of its group.
VECTOR_GROUP_ROWS = 1024

# Files below a limit are merged when so many of them have gathered: of four at least one is made, which is large enough
# to be left alone from then on. So each row is rewritten a handful of times in its life, however large the table grows,
# and a table of 10 GB has some 600 files, at most 2,500.
MERGE_COUNT = 32
MERGED_BYTES = 16 * MIB
MERGE_CLASSES = (MERGED_BYTES // 16, MERGED_BYTES // 4)
COMPACT_BELOW = MERGED_BYTES // 2


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file. Its name starts with the version it came from: names sort in order of writing."""

    name: str
    size: int  # bytes

    def remove_action(self, *, data_change: bool) -> RemoveAction:
        return RemoveAction(self.name, data_change, int(time.time() * 1000), self.size, {})


def write_file(folder: Path, rows: pa.Table, order: str, *, data_change: bool) -> AddAction:
    """One Parquet file below `folder`, complete and on the disk, or none; it is visible only once committed."""
    name = f"{order}-{uuid.uuid4().hex}.parquet"
    path = folder / name
    try:
        with disk_full_explained(folder), path.open("wb") as sink:
            pq.write_table(
                rows,
                sink,
                compression="zstd",
                row_group_size=_row_group_rows(rows),
                use_dictionary=[leaf for field in rows.schema for leaf in _repeating(field, field.name)],
            )
            sink.flush()
            # The log must never name a file that a power cut emptied.
            os.fsync(sink.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    low, high = pc.min_max(rows["media_id"]).as_py().values()
    stats = {
        "numRecords": rows.num_rows,
        "minValues": {"media_id": low},
        "maxValues": {"media_id": high},
        "nullCount": {"media_id": rows["media_id"].null_count},
    }
    return AddAction(name, path.stat().st_size, {}, int(time.time() * 1000), data_change, json.dumps(stats))


def _row_group_rows(rows: pa.Table) -> int:
    lists = [field.type for field in rows.schema if pa.types.is_list(field.type)]
    return VECTOR_GROUP_ROWS if any(pa.types.is_floating(kind.value_type) for kind in lists) else ROW_GROUP_ROWS


def _repeating(field: pa.Field, path: str) -> Iterator[str]:
    """Leaves of a column, by their Parquet paths, whose values repeat.

    Measured numbers do not: with a dictionary vectors take two fifths more room, and four times as long to write.
    """
    kind = field.type
    if pa.types.is_list(kind):
        yield from _repeating(kind.value_field, f"{path}.list.element")
    elif pa.types.is_struct(kind):
        for part in kind:
            yield from _repeating(part, f"{path}.{part.name}")
    elif not pa.types.is_floating(kind):
        yield path


def read_file(path: str, schema: pa.Schema, media_ids: Collection[str] | None = None) -> pa.Table:
    """The rows of these media (all if None) with exactly these columns; those the file is too old to have are null.

    Row groups are skipped by their statistics. Read without `pyarrow.dataset`, whose import alone costs over a second
    where pandas is installed.
    """
    with pq.ParquetFile(path) as file:
        present = [name for name in schema.names if name in file.schema_arrow.names]
        groups = range(file.num_row_groups) if media_ids is None else _groups_holding(file.metadata, sorted(media_ids))
        rows = file.read_row_groups(list(groups), columns=present)
    if media_ids is not None:
        rows = rows.filter(pc.is_in(rows["media_id"], pa.array(media_ids, pa.string())))
    columns = [rows[f.name].cast(f.type) if f.name in present else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _groups_holding(metadata: pq.FileMetaData, media_ids: Sequence[str]) -> Iterator[int]:
    """Row groups whose range of ids has one of these (sorted) in it."""
    column = metadata.schema.names.index("media_id")
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            yield number
            continue
        at = bisect_left(media_ids, statistics.min)
        if at < len(media_ids) and media_ids[at] <= statistics.max:
            yield number


def order_of(name: str) -> str:
    """The part of a file's name that says when its rows were written first."""
    return name.partition("-")[0]


def size_class(file: DataFile) -> int | None:
    return next((limit for limit in MERGE_CLASSES if file.size < limit), None)


def neighbours(files: Iterable[DataFile]) -> list[list[DataFile]]:
    """Runs of files in order of writing, each at least `MERGED_BYTES` except the last; single files are left out."""
    groups: list[list[DataFile]] = [[]]
    size = 0
    for file in files:
        groups[-1].append(file)
        size += file.size
        if size >= MERGED_BYTES:
            groups.append([])
            size = 0
    return [group for group in groups if len(group) > 1]


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as Delta keeps it: everything nullable, fixed-size lists as lists that carry their length.

    Raises:
        ContractViolation: a column has a type that Delta would change silently.
    """
    return pa.schema([_stored_field(field) for field in schema])


def _stored_field(field: pa.Field) -> pa.Field:
    metadata = dict(field.metadata or {})
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        metadata[b"dimension"] = str(kind.list_size).encode()
        kind = pa.list_(kind.value_type)
    stored = pa.field(field.name, kind, metadata=metadata or None)
    if pa.types.is_unsigned_integer(kind) or pa.types.is_float16(kind) or pa.types.is_dictionary(kind):
        raise ContractViolation(f"column {field.name} has type {field.type}, which a Delta table cannot keep")
    return stored


def dimension_of(field: pa.Field) -> int | None:
    """Length of the vectors of a column, where it has one."""
    if pa.types.is_fixed_size_list(field.type):
        return int(field.type.list_size)
    length = (field.metadata or {}).get(b"dimension")
    return int(length) if length else None


def declared_schema(stored: pa.Schema) -> pa.Schema:
    """The reverse of `stored_schema`: vectors have their fixed length again."""
    return pa.schema([_declared_field(field) for field in stored])


def _declared_field(field: pa.Field) -> pa.Field:
    kind = _plain(field.type)
    length = dimension_of(field)
    if length and pa.types.is_list(kind):
        kind = pa.list_(kind.value_type, length)
    return pa.field(field.name, kind, metadata=field.metadata)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type with Arrow's own names for list elements, so that it equals the one that was declared."""
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    return kind


def missing_columns(name: str, have: pa.Schema, wanted: pa.Schema) -> list[pa.Field]:
    """Columns of the wanted schema that a table lacks.

    Raises:
        ContractViolation: it has one of another type.
    """
    have, wanted_declared = declared_schema(have), declared_schema(wanted)
    for field in wanted_declared:
        if field.name in have.names and have.field(field.name).type != field.type:
            raise ContractViolation(
                f"column {field.name} of table {name} is {have.field(field.name).type}, not {field.type}",
                "give the changed column another name",
            )
    return [field for field in wanted if field.name not in have.names]


def fitted(name: str, rows: pa.Table, schema: pa.Schema, media_ids: set[str]) -> pa.Table:
    """`rows` with exactly the table's columns, as stored."""
    unknown = [column for column in rows.column_names if column not in schema.names]
    if unknown:
        raise ContractViolation(f"table {name} has no column {', '.join(unknown)}", "call ensure() with the new schema")
    foreign = set(rows["media_id"].unique().to_pylist()) - media_ids
    if foreign:
        raise ContractViolation(f"rows of media that are not replaced in {name}: {sorted(map(str, foreign))[:3]}")
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema).combine_chunks()


def drop_log_before(folder: Path, version: int) -> None:
    """Removes the log entries and checkpoints of earlier versions: their statistics name media.

    There must be a checkpoint of this version. Only under the table's lock: a writer that began at an earlier version
    would find the number of its commit free again.
    """
    for path in (folder / "_delta_log").iterdir():
        number = path.name.partition(".")[0]
        if (number.isdecimal() and int(number) < version) or path.suffix == ".tmp":
            path.unlink(missing_ok=True)
