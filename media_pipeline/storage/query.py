"""SQL given by users: one read-only statement, bounded in time, memory and rows, that sees nothing but the library.

Three walls, each enough for what it is there for: only statements that DuckDB's own parser calls reading are taken;
they run in a read-only transaction; and the connection can open no file but those of the tables (`Catalog.connect`).

Time is held where DuckDB looks up from its work, which it does not do inside a function. A command therefore asks
within `cli/_asking.py`, which ends its process; who asks in a process with other work has to wait.
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import duckdb
import psutil
import pyarrow as pa

from media_pipeline.config import MIB, SqlLimits
from media_pipeline.errors import QueryRejected
from media_pipeline.storage.catalog import Catalog, Scope

BATCH_ROWS = 2048  # DuckDB's own vector: what may lie in memory beyond the limits while they are checked

THREAD_BYTES = 16 * MIB  # stack and first arena of one of DuckDB's or Arrow's threads

_LINE = re.compile(r"\n\nLINE (\d+): ")  # how DuckDB says where
_NAME = re.compile(r'"([^"]+)"|(\w+)')
_REMEDY_READING = "one SELECT, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN statement is accepted"


def run_query(catalog: Catalog, sql: str, limits: SqlLimits) -> pa.Table:
    """The result of one read-only statement.

    Raises:
        QueryRejected: it is not one reading statement, is wrong, opens other files, or goes beyond a limit.
    """
    with asking(catalog, limits) as asker:
        return asker.ask(sql)


class QueryWrong(QueryRejected):
    """SQL that DuckDB does not understand; says in which of its lines, where DuckDB knows it."""

    line: int | None = None  # from 1


class Asker:
    """A connection that answers any number of read-only questions. Each is bounded by itself."""

    def __init__(self, catalog: Catalog, connection: duckdb.DuckDBPyConnection, limits: SqlLimits) -> None:
        self._catalog, self._connection, self._limits = catalog, connection, limits

    def ask(self, sql: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        """The result of one read-only statement.

        Raises:
            QueryRejected: as `run_query`; the next question can be asked.
        """
        with self._transaction():
            statement = _single_reading(self._connection, sql)
            with _time_limit(self._connection, self._limits.max_seconds):
                return _fetched(self._connection, statement, parameters, self._limits)

    def parameters(self, sql: str) -> set[str]:
        """Names of the parameters of one read-only statement (`$threshold`).

        Raises:
            QueryWrong, QueryRejected: it is not one reading statement.
        """
        with self._transaction():
            return set(_single_reading(self._connection, sql).named_parameters)

    def columns(self, sql: str, parameters: Mapping[str, object] | None = None) -> dict[str, str]:
        """Names and types of what a query returns, which is planned and not run.

        Raises:
            QueryWrong: it cannot be planned.
            QueryRejected: it is not one reading statement, or no query that can stand in parentheses.
        """
        with self._transaction():
            _single_reading(self._connection, sql)
            planned = f"DESCRIBE SELECT * FROM ({sql}\n)"  # noqa: S608 - parsed above
            statement = _single_reading(self._connection, planned)
            with _time_limit(self._connection, self._limits.max_seconds):
                # Not `sql()`: it leaves out of an error in which line it is.
                described = self._connection.execute(statement, parameters).fetchall()
        return {name: kind for name, kind, *_ in described}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self._catalog, self._limits):
            # Also holds against what the parser calls SELECT: a WITH whose member inserts or deletes.
            self._connection.execute("BEGIN TRANSACTION READ ONLY")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")


@contextmanager
def asking(catalog: Catalog, limits: SqlLimits, scope: Scope | None = None) -> Iterator[Asker]:
    """A connection for questions of users, over the whole library or a part of it."""
    with closing(catalog.connect(limits, scope)) as connection:
        yield Asker(catalog, connection, limits)


def _single_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryRejected(f"{len(statements)} statements were given instead of one", _REMEDY_READING)
    kind = _kind(statements[0])
    if kind == "MULTI":
        raise QueryRejected("a PIVOT without its values is several statements", "name them: PIVOT … ON … IN (…)")
    if kind == "EXPLAIN":
        # EXPLAIN ANALYZE runs what it explains.
        kind = " ".join(_kind(s) for s in connection.extract_statements(_explained_statement(sql)))
    if kind != "SELECT":
        raise QueryRejected(f"{kind} statements are not accepted", _REMEDY_READING)
    return statements[0]


def names_in(sql: str) -> set[str]:
    """Everything in a statement that may be the name of a view, in lower case: columns and keywords are among it."""
    text = sql.encode()  # offsets of the tokenizer count bytes
    named = (duckdb.token_type.identifier, duckdb.token_type.keyword)
    starts = [start for start, kind in duckdb.tokenize(sql) if kind in named]
    found = (_NAME.match(text[start:].decode()) for start in starts)
    return {(match[1] or match[2]).lower() for match in found if match}


def _kind(statement: duckdb.Statement) -> str:
    """What DuckDB's parser calls it. SHOW, DESCRIBE, SUMMARIZE, VALUES, FROM and WITH are all SELECT."""
    try:
        return str(statement.type.name)
    except ValueError:  # the binding lacks names for some, UPDATE EXTENSIONS for one
        return "such"


def _explained_statement(sql: str) -> str:
    """What follows EXPLAIN [ANALYZE]; after options in parentheses nothing parses, so they are refused."""
    text = sql.encode()  # offsets of the tokenizer count bytes
    words = [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    analyze = text[words[1] :][: len("analyze")].lower() == b"analyze"
    return text[words[2 if analyze else 1] :].decode()


def _fetched(
    connection: duckdb.DuckDBPyConnection,
    statement: duckdb.Statement,
    parameters: Mapping[str, object] | None,
    limits: SqlLimits,
) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    # Closed in any case: until then the connection takes no other statement.
    with connection.sql(statement, params=parameters).to_arrow_reader(BATCH_ROWS) as reader:
        for batch in reader:
            batches.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows > limits.max_rows:
                raise QueryRejected(f"the result has more than {limits.max_rows} rows", "add a LIMIT or aggregate")
            if size > limits.max_memory_bytes:
                raise QueryRejected(
                    "the result is larger than the memory a query may use", "select fewer columns or rows"
                )
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def process_memory_limit(limits: SqlLimits) -> Iterator[None]:
    """Holds the whole process to what it has plus what a query may use; for processes that do nothing but ask.

    DuckDB counts its buffers, not the values it computes: `SELECT unnest(range(100000000))` takes 7 GB under a limit
    of 200 MB. Beyond this limit its allocations fail, which it survives and reports like its own.
    """
    used = getattr(psutil.Process().memory_info(), "data", None)
    if used is None:  # not Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + 2 * limits.max_memory_bytes + 512 * MIB + (os.cpu_count() or 1) * THREAD_BYTES
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # alive while the interpreter ends, it would have DuckDB complain of leaks on the terminal


def too_long(limits: SqlLimits) -> QueryRejected:
    """What is said of a query that has had its time."""
    return QueryRejected(
        f"the query ran longer than {limits.max_seconds:g} s", "narrow it down or raise MEDIA_PIPELINE_SQL__MAX_SECONDS"
    )


@contextmanager
def _explained(catalog: Catalog, limits: SqlLimits) -> Iterator[None]:
    """DuckDB's errors in our words. While rows are fetched they come through Arrow: an OSError with the same text."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as error:
        text = _shortened(str(error))
        if isinstance(error, duckdb.InterruptException) or text.startswith("INTERRUPT Error"):
            raise too_long(limits) from None
        if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)) or text.startswith("Out of Memory"):
            raise QueryRejected(
                f"the query needs more than {limits.max_memory_bytes // 1024**2} MiB of memory",
                "narrow it down or raise MEDIA_PIPELINE_SQL__MAX_MEMORY_BYTES",
            ) from None
        if isinstance(error, duckdb.PermissionException):
            raise QueryRejected("the query reaches outside the library", f"ask the views {_listed(catalog)}") from None
        wrong = QueryWrong(text, _remedy(error, catalog))
        place = _LINE.search(str(error))
        wrong.line = int(place[1]) if place else None
        raise wrong from None


def _remedy(error: Exception, catalog: Catalog) -> str | None:
    if isinstance(error, duckdb.CatalogException):
        return f"there are the views {_listed(catalog)}"
    if isinstance(error, duckdb.ParserException):
        # `at` of analyses is a keyword of DuckDB 2: whoever asks for it meets this error first.
        return 'columns named like a keyword need double quotes: "at"'
    return None


def _shortened(message: str) -> str:
    """Without the picture of the query, with the hint ("Did you mean …")."""
    lines = message.split("\n\nLINE ")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip()).rstrip(".")


def _listed(catalog: Catalog) -> str:
    return ", ".join(catalog.names)
