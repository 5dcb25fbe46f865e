"""Everything that a file holds, as plain bytes: as it lies on the disk, and once more with its values decoded.

What is compressed or cut into pages cannot be found in a file as it lies there. Parquet files, the tables of SQLite
and DuckDB files (with blobs that zlib has packed) and Arrow files are therefore read value by value as well. Raw
bytes still matter: pages that no table owns any more, write-ahead logs, statistics in footers.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK_BYTES = 8 << 20
BATCH_ROWS = 16_384
_SEPARATOR = b"\x00"  # between values, so that two of them make no third
_FILE_HEAD_BYTES = 32
_MAX_UNPACKED_BYTES = 64 << 20  # of one blob


def raw(path: Path, overlap: int) -> Iterator[bytes]:
    """The bytes of a file in blocks; each begins with the last `overlap` bytes of the one before."""
    tail = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield tail + block
            tail = (tail + block)[-overlap:] if overlap else b""


def decoder(path: Path) -> Callable[[Path], Iterator[bytes]] | None:
    """How the values of this file are read, by its first bytes; None where they lie there as they are."""
    with path.open("rb") as file:
        head = file.read(_FILE_HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return parquet_values
    if head.startswith(b"SQLite format 3\x00"):
        return sqlite_values
    if head[8:12] == b"DUCK":
        return duckdb_values
    if head.startswith(b"ARROW1"):
        return arrow_values
    return None


def parquet_values(path: Path) -> Iterator[bytes]:
    """The values of a Parquet file: strings one behind the other, numbers as they lie in memory."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            yield from arrow_bytes(pa.Table.from_batches([batch]))


def arrow_values(path: Path) -> Iterator[bytes]:
    """The values of an Arrow IPC file."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            yield from arrow_bytes(pa.Table.from_batches([file.get_batch(number)]))


def arrow_bytes(table: pa.Table) -> Iterator[bytes]:
    """The buffers of all columns, nested ones too."""
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    yield memoryview(buffer).tobytes()


def sqlite_values(path: Path) -> Iterator[bytes]:
    """Texts and blobs of all tables of a SQLite file, and the blobs unpacked where zlib has packed them."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        db.text_factory = bytes
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        for (name,) in tables.fetchall():
            quoted = name.decode().replace('"', '""')
            rows = db.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 - quoted
            yield from gathered(value for row in rows for value in row if isinstance(value, bytes))


def gathered(values: Iterator[bytes]) -> Iterator[bytes]:
    """Values put together to blocks worth searching, followed by what packed ones hold."""
    block: list[bytes] = []
    size = 0
    for value in values:
        for part in (value, *unpacked(value)):
            block.append(part)
            size += len(part)
        if size >= BLOCK_BYTES:
            yield _SEPARATOR.join(block)
            block, size = [], 0
    yield _SEPARATOR.join(block)


def unpacked(value: bytes) -> Iterator[bytes]:
    """What zlib has packed into a blob, bounded; nothing where it has not."""
    if value[:1] == b"\x78":
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(value, _MAX_UNPACKED_BYTES)


def duckdb_values(path: Path) -> Iterator[bytes]:
    """The tables that lie in a DuckDB file itself, and the text of its views; files that views name are not opened."""
    # A copy: DuckDB refuses a file that another program has open for writing.
    with tempfile.TemporaryDirectory(prefix="media-pipeline-scan-") as folder:
        copy = shutil.copy(path, Path(folder) / "copy.duckdb")
        with duckdb.connect(copy, read_only=True) as connection:
            connection.execute("SET enable_external_access = false")
            views = connection.execute("SELECT sql FROM duckdb_views() WHERE NOT internal").fetchall()
            yield from gathered(sql.encode() for (sql,) in views if sql)
            tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
            for schema, name in tables:
                quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
                for batch in connection.sql(f"FROM {quoted}").to_arrow_reader(BATCH_ROWS):
                    yield from arrow_bytes(pa.Table.from_batches([batch]))
