"""`sql`: one read-only question, answered as a table for people or as JSON, CSV or Parquet for machines."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import math
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from media_pipeline.cli._asking import bounded
from media_pipeline.cli.context import App
from media_pipeline.errors import DiskFull, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

CELL_WIDTH = 60  # characters of one cell on a terminal
ROWS_SHOWN = 1000  # on a terminal
FORMATS = ("table", "json", "csv", "parquet")


@click.command()
@click.argument("query")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@click.pass_obj
def sql(app: App, query: str, format_: str, output: Path | None) -> None:
    """Ask the results in SQL, read-only: one statement; `-` reads it from standard input.

    \b
    media-pipeline sql "SHOW TABLES"
    media-pipeline sql "SELECT name, pts_s, text FROM ocr JOIN media USING (media_id)"
    """
    from media_pipeline.storage.query import run_query

    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is binary and would garble the terminal", "add --output FILE or pipe it somewhere")
    statement = sys.stdin.read() if query == "-" else query
    catalog, limits = app.catalog(), app.settings.sql
    with bounded(limits):
        result = run_query(catalog, statement, limits)
    writer = _WRITERS[format_]
    if output is None:
        writer(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        _to_file(output, lambda sink: writer(result, sink))


def _to_file(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """The whole file or none: what was there before stays until the new one is complete."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with fresh.open("wb") as sink:
            write(sink)
        fresh.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no room left for {path}", "free some space or choose another place") from error
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another place") from error
    finally:
        fresh.unlink(missing_ok=True)


def _records(result: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows of plain JSON values; by position, because two columns may have the same name."""
    for batch in result.to_batches(max_chunksize=4096):
        yield from zip(*(_plain_column(column) for column in batch.columns), strict=True)


def _plain_column(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    values: list[Any] = column.to_pylist()
    if pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
        return values
    return [plain(value) for value in values]


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities are null, times and intervals ISO 8601, bytes base64."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case (int(months), int(days), int(nanoseconds)) if type(value).__name__ == "MonthDayNano":
            return f"P{months}M{days}DT{nanoseconds / 1e9:g}S"
        case list() | tuple():
            return [plain(item) for item in value]
        case None | bool() | int() | str():
            return value
    return str(value)


def _write_json(result: pa.Table, sink: IO[bytes]) -> None:
    names = unique_names(result.column_names)
    separator = b"[\n"
    for record in _records(result):
        sink.write(separator + json.dumps(dict(zip(names, record, strict=True)), ensure_ascii=False).encode())
        separator = b",\n"
    sink.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _write_csv(result: pa.Table, sink: IO[bytes]) -> None:
    text = io.TextIOWrapper(sink, encoding="utf-8", newline="", write_through=True)
    # Lines as a shell reads them: a carriage return would become part of the last value.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.column_names)
    for record in _records(result):
        writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else v for v in record])
    text.detach()


def _write_parquet(result: pa.Table, sink: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(result.rename_columns(unique_names(result.column_names)), sink, compression="zstd")


def unique_names(names: Sequence[str]) -> list[str]:
    """Names made distinct: of `a, a` the second becomes `a_1`, as DuckDB does."""
    seen: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 0
        while candidate in seen or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        seen.add(candidate)
        found.append(candidate)
    return found


def _write_table(result: pa.Table, sink: IO[bytes]) -> None:
    """For people. On a terminal long cells are cut and columns that do not fit are left out, and it says so."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if result.column_names == ["explain_key", "explain_value"]:
        sink.write("".join(f"{text}\n" for text in result["explain_value"].to_pylist()).encode())
        return
    terminal = sink is sys.stdout.buffer and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    rows = [[_cell(v, CELL_WIDTH if terminal else None) for v in r] for r in _records(result.slice(0, ROWS_SHOWN))]
    headings = [_cell(name, CELL_WIDTH if terminal else None) for name in result.column_names]
    widths = [max(Text(cell).cell_len for cell in column) for column in zip(headings, *rows, strict=True)]
    shown = _fitting(widths, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for heading, field in zip(headings[:shown], result.schema, strict=False):
        table.add_column(Text(heading), justify="right" if _numeric(field.type) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[:shown]))
    text = io.TextIOWrapper(sink, encoding="utf-8", write_through=True)
    Console(file=text, width=width or sum(widths) + 3 * len(widths) + 2, color_system=None).print(table)
    text.detach()
    _say_what_is_missing(result, shown, headings, cut=terminal and any(w >= CELL_WIDTH for w in widths[:shown]))


def _fitting(widths: Sequence[int], room: int | None) -> int:
    """How many of the columns fit side by side, with three characters between them; at least one."""
    if room is None:
        return len(widths)
    used = 0
    for count, width in enumerate(widths):
        used += width + 3
        if used - 3 > room and count:
            return count
    return len(widths)


def _say_what_is_missing(result: pa.Table, shown: int, headings: Sequence[str], *, cut: bool) -> None:
    missing = []
    if result.num_rows > ROWS_SHOWN:
        missing.append(f"{result.num_rows - ROWS_SHOWN:,} more rows")
    if shown < len(headings):
        missing.append(f"columns without room: {', '.join(headings[shown:])}")
    if cut:
        missing.append("long cells are cut")
    note = f"{result.num_rows:,} row{'' if result.num_rows == 1 else 's'}"
    if missing:
        note += f" ({'; '.join(missing)}; --format json shows everything)"
    click.echo(note, err=True)


def _cell(value: Any, width: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.6g}" if abs(value) < 1e6 else str(value)
    elif isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    # Names and recognised text come from foreign files: no escape sequence may reach the terminal.
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


_WRITERS: dict[str, Callable[[Any, IO[bytes]], None]] = {
    "table": _write_table,
    "json": _write_json,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
