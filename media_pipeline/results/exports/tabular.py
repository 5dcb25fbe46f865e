"""CSV and Parquet: the views as they are, one file per view.

CSV as RFC 4180 has it (CRLF, quotes doubled), in UTF-8; an empty cell is null, an empty text has its quotes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from media_pipeline.results.exports._library import Library, Portion
from media_pipeline.results.exports._values import cell, quoted

ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 64 * 1024**2


class TabularFormat(Protocol):
    """A format for rows of one view."""

    suffix: str

    def write(self, library: Library, view: str, sink: IO[bytes]) -> Generator[Portion, None, None]:
        """Writes a view; yields each portion once it is written."""
        ...


class Csv:
    """Lists and structs are JSON in their cell.

    Args:
        defuse: put an apostrophe before texts that a spreadsheet would take for a formula
    """

    suffix = ".csv"

    def __init__(self, *, defuse: bool = True) -> None:
        self._defuse = defuse

    def write(self, library: Library, view: str, sink: IO[bytes]) -> Generator[Portion, None, None]:
        from pyarrow import csv

        cells = ", ".join(cell(field, defuse=self._defuse) for field in library.schemas[view])
        schema = _as_text(library.schemas[view])
        with csv.CSVWriter(sink, schema, write_options=csv.WriteOptions(eol="\r\n")) as writer:
            for portion in library.portions_of(view):
                writer.write_table(library.read(view, portion, cells).cast(schema))
                yield portion


class Parquet:
    """Column types are those of the views; vectors have their fixed length."""

    suffix = ".parquet"

    def write(self, library: Library, view: str, sink: IO[bytes]) -> Generator[Portion, None, None]:
        schema = library.schemas[view]
        columns = ", ".join(quoted(name) for name in schema.names)
        with closing(pq.ParquetWriter(sink, schema, compression="zstd")) as writer:
            waiting: list[pa.Table] = []
            for portion in library.portions_of(view):
                waiting.append(library.read(view, portion, columns).cast(schema))
                rows, size = sum(t.num_rows for t in waiting), sum(t.nbytes for t in waiting)
                if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
                    waiting = []
                yield portion
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)


def _as_text(schema: pa.Schema) -> pa.Schema:
    """The columns of `_values.cell`: what has members, and times, is text."""
    return pa.schema([pa.field(field.name, _cell_type(field.type)) for field in schema])


def _cell_type(kind: pa.DataType) -> pa.DataType:
    text = pa.types.is_nested(kind) or pa.types.is_timestamp(kind) or pa.types.is_binary(kind)
    return pa.string() if text else kind
