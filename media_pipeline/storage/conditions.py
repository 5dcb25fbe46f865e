"""Conditions given by users: what stands after WHERE, over the view `media`.

A condition is hostile until shown otherwise. It is one expression, nothing else: it is parsed as the only element of a
list, in square brackets, and then asked in parentheses. Whatever closes one of the two early cannot close the other,
since brackets nest in every language; so no text gets out of its place. Asked it is as every query of a user's is:
read-only, bounded in time and memory, blind to everything but the views (`storage/query.py`).
"""

from __future__ import annotations

import re

import duckdb

from media_pipeline.config import SqlLimits
from media_pipeline.errors import QueryRejected
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.query import QueryWrong, run_query

MAX_CONDITION_CHARS = 10_000
_REMEDY = 'give a condition over the view media, e.g. "duration_s > 60 AND width >= 1920"'
_PICTURE = re.compile(r"\n\nLINE (\d+): ([^\n]*)(?:\n( *)\^)?")  # how DuckDB shows where an error is


def media_where(catalog: Catalog, condition: str, limits: SqlLimits) -> list[str]:
    """Ids of the media that fulfil a condition, ascending.

    Raises:
        QueryRejected: it is no condition, is wrong, or goes beyond a limit; says at which line and column.
    """
    if not condition.strip() or len(condition) > MAX_CONDITION_CHARS:
        raise QueryRejected("the condition is empty or longer than it may be", _REMEDY)
    condition = condition.encode(errors="replace").decode()  # bytes that are no UTF-8 reach us as lone surrogates
    _parse(condition)
    sql = f"SELECT media_id FROM media WHERE (\n{condition}\n) ORDER BY media_id"  # noqa: S608 - see above
    every_medium = limits.model_copy(update={"max_rows": max(limits.max_rows, 100_000_000)})
    try:
        found: list[str] = run_query(catalog, sql, every_medium)["media_id"].to_pylist()
    except QueryWrong as error:  # of others the place says nothing, and planning them again may take as long
        place = _place_in(catalog, sql, limits)
        raise QueryRejected(error.cause + place, error.remedy) from None
    return found


def _parse(condition: str) -> None:
    with duckdb.connect(":memory:") as connection:
        try:
            statements = connection.extract_statements(f"SELECT [\n{condition}\n]")
        except duckdb.Error as error:
            text = str(error)
            cause = (text.split("\n\nLINE ")[0].partition(": ")[2] or text).removesuffix(' at or near "]"')
            raise QueryRejected(f"no condition: {cause}{_place(text, condition)}", _REMEDY) from None
    if len(statements) != 1:
        raise QueryRejected("no condition but several statements", _REMEDY)


def _place_in(catalog: Catalog, sql: str, limits: SqlLimits) -> str:
    """Where in its condition a refused query is wrong, as DuckDB says when it plans it; nothing is run."""
    connection = catalog.connect(limits)
    try:
        connection.execute(f"EXPLAIN {sql}")
    except (duckdb.Error, MemoryError) as error:
        return _place(str(error), sql.partition("(\n")[2].rpartition("\n)")[0])
    finally:
        connection.close()
    return ""


def _place(message: str, condition: str) -> str:
    """` at line 1, column 7` of the condition, which begins on the second line of what DuckDB was given."""
    found = _PICTURE.search(message)
    if found is None:
        return ""
    line, shown, before = int(found[1]) - 1, found[2], found[3]
    lines = condition.splitlines() or [""]
    if not 1 <= line <= len(lines):
        return " at its end"
    if before is None:
        return f" at line {line}"
    column = len(before) - len(f"LINE {found[1]}: ") + 1
    if shown.startswith("..."):  # of a long line DuckDB shows a part
        part = shown.strip(".")
        if lines[line - 1].count(part) != 1:
            return f" at line {line}"
        column += lines[line - 1].index(part) - len("...")
    return f" at line {line}, column {column}"


__all__ = ["media_where"]
