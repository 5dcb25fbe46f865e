from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from media_pipeline.config import SqlLimits
from media_pipeline.errors import QueryRejected
from media_pipeline.storage.query import _time_limit, run_query
from media_pipeline_tests._library import Library

LIMITS = SqlLimits()
HOSTS = "/etc/hosts"  # a file outside the library that every machine has


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    library = Library(tmp_path_factory.mktemp("query") / "home", ["media", "frames"])
    library.put_media("a", "b")
    library.put("frames", [{"media_id": "a", "frame_index": 0, "pts_s": 0.5}])
    return library


def ask(library: Library, sql: str, limits: SqlLimits = LIMITS) -> pa.Table:
    return run_query(library.catalog, sql, limits)


def state(library: Library) -> list[tuple[str, int, int]]:
    """Every file of the home with its size and time of change."""
    files = sorted(path for path in library.layout.home.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


# ---------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT media_id FROM media ORDER BY 1", ["a", "b"]),
        ("SELECT media_id FROM media ORDER BY 1;", ["a", "b"]),
        ("-- a comment\nSELECT 1 /* ; */ AS one -- ; SELECT 2", [1]),
        ("WITH m AS (SELECT * FROM media) SELECT count(*) FROM m", [2]),
        ("FROM frames SELECT pts_s", [0.5]),
        ("VALUES (1), (2)", [1, 2]),
        ("TABLE sources", ["inbox/a.jpg", "inbox/copy.jpg"]),
        ("SHOW TABLES", ["duplicate_pairs", "frames", "media", "sources"]),
        ("SELECT ';DROP VIEW media'", [";DROP VIEW media"]),
        ("EXPLAIN SELECT 1", ["physical_plan"]),
        ("explain analyze select count(*) from media", ["analyzed_plan"]),
        ("/* ü */ EXPLAIN /* what? */ SELECT 1", ["physical_plan"]),
        ("EXPLAIN -- ü\n ANALYZE /**/ SELECT 'ü'", ["analyzed_plan"]),
        ("PIVOT frames ON frame_index IN (0) USING count(*) GROUP BY media_id", ["a"]),
        ('SELECT 1 AS "at"', [1]),
    ],
)
def test_one_reading_statement_is_answered(library: Library, sql: str, expected: list[object]) -> None:
    assert ask(library, sql).column(0).to_pylist() == expected


def test_describe_and_summarize(library: Library) -> None:
    assert "duplicate_of" in ask(library, "DESCRIBE media")["column_name"].to_pylist()
    assert ask(library, "SUMMARIZE frames").num_rows == 7


def test_an_empty_answer_has_its_columns(library: Library) -> None:
    answer = ask(library, "SELECT media_id, pts_s FROM frames WHERE false")
    assert answer.num_rows == 0
    assert answer.schema.equals(pa.schema([("media_id", pa.string()), ("pts_s", pa.float64())]))


# ---------------------------------------------------------------------- what is refused

NOT_READING = [
    "",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW media",
    "CREATE TABLE t (i INT)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW media AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "DROP VIEW media",
    "ALTER VIEW media RENAME TO m",
    "INSERT INTO media VALUES (1)",
    "UPDATE media SET name = 'x'",
    "DELETE FROM media",
    "TRUNCATE sources",
    "COMMENT ON VIEW media IS 'x'",
    "MERGE INTO media USING frames ON true WHEN MATCHED THEN DELETE",
    "COPY media TO '{out}'",
    "COPY (SELECT 1) TO '{data}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY media FROM '{out}'",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}'",
    "UPDATE EXTENSIONS",
    "SET memory_limit = '100GB'",
    "SET GLOBAL enable_external_access = true",
    "SET lock_configuration = false",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "PRAGMA memory_limit = '100GB'",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "EXPLAIN DROP VIEW media",
    "EXPLAIN CREATE TABLE t (i INT)",
    "EXPLAIN ANALYZE CREATE TABLE t (i INT)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}' (FORMAT parquet, USE_TMP_FILE false)",
    "/* x */ explain /* y */ analyze copy (select 1) to '{data}' (format parquet, use_tmp_file false)",
    "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{data}' (FORMAT parquet, USE_TMP_FILE false)",
    "EXPLAIN EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}'",
    "PIVOT frames ON frame_index",
    "WITH w AS (INSERT INTO sources VALUES ('x', 'y') RETURNING *) SELECT * FROM w",
    "WITH w AS (DELETE FROM sources RETURNING *) SELECT * FROM w",
]

REACHING_OUT = [
    f"FROM '{HOSTS}'",
    f"SELECT * FROM read_text('{HOSTS}')",
    f"SELECT * FROM read_blob('{HOSTS}')",
    f"SELECT * FROM read_csv('{HOSTS}', header = false, columns = {{'line': 'VARCHAR'}})",
    f"SELECT * FROM read_json('{HOSTS}')",
    f"SELECT * FROM read_parquet('{HOSTS}')",
    f"SELECT * FROM parquet_metadata('{HOSTS}')",
    f"SELECT * FROM sniff_csv('{HOSTS}')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text('{home}/sources.sqlite')",
    "SELECT * FROM read_text('{tables}/media/_delta_log/00000000000000000000.json')",
    "SELECT * FROM read_text('{data}/../../../../secret.txt')",
    "SELECT * FROM read_parquet('{data}/../*.parquet')",
    "SELECT * FROM read_duckdb('{out}')",
    "SELECT * FROM 'https://example.invalid/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM sqlite_scan('{home}/sources.sqlite', 'sources')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')",
    f"SELECT * FROM query('SELECT * FROM read_text(''{HOSTS}'')')",
    f"SELECT * FROM query_table('{HOSTS}')",
    f"SELECT (SELECT content FROM read_text('{HOSTS}'))",
    f"WITH RECURSIVE t AS (SELECT content FROM read_text('{HOSTS}')) SELECT * FROM t",
    f"SUMMARIZE FROM read_text('{HOSTS}')",
    f"DESCRIBE FROM '{HOSTS}'",
    f"EXPLAIN ANALYZE SELECT * FROM read_text('{HOSTS}')",
    "SELECT getenv('PATH')",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{out}'}})",
    "SELECT * FROM enable_profiling(save_location = '{out}')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM pg_read_file('/etc/hosts')",
    "SELECT * FROM python_variable",
    "SELECT write_file('{out}', 'x')",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", NOT_READING + REACHING_OUT)
def test_attempts_to_write_or_to_reach_out_change_nothing(library: Library, tmp_path: Path, sql: str) -> None:
    python_variable = pa.table({"secret": [1]})
    assert python_variable.num_rows == 1
    out = tmp_path / "out"
    (data,) = library.tables.files("media")
    for word, path in {"out": out, "data": data, "home": library.layout.home, "tables": library.layout.tables}.items():
        sql = sql.replace("{" + word + "}", str(path))
    before = state(library)
    with pytest.raises(QueryRejected) as rejected:
        ask(library, sql.replace("{{", "{").replace("}}", "}"))
    assert "\n" not in str(rejected.value)
    assert state(library) == before
    assert not out.exists()


def test_a_secret_of_the_environment_is_in_no_system_table(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-9431")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hush-9431"
    for table in ("duckdb_settings()", "duckdb_variables()", "duckdb_databases()", "duckdb_views()"):
        assert "hush-9431" not in str(ask(library, f"SELECT * FROM {table}").to_pylist())


# ---------------------------------------------------------------------- limits


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(a.range) FROM range(10000000) a, range(10000000) b",
        # Rows come at once and never end: the clock also runs while they are fetched.
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT i FROM t",
        "EXPLAIN ANALYZE SELECT sum(a.range) FROM range(10000000) a, range(10000000) b",
    ],
)
def test_time_is_limited(library: Library, sql: str) -> None:
    started = time.monotonic()
    with pytest.raises(QueryRejected, match=re.escape("ran longer than 0.2 s; narrow it down")):
        ask(library, sql, SqlLimits(max_seconds=0.2, max_rows=10**9))
    assert time.monotonic() - started < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT list(range) FROM range(100000000)",
        "SELECT DISTINCT hash(range) FROM range(100000000)",
        "SELECT * FROM range(10000000) ORDER BY random()",
    ],
)
def test_memory_is_limited(library: Library, tmp_path: Path, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryRejected, match="needs more than 48 MiB of memory"):
        ask(library, sql, SqlLimits(max_memory_bytes=48 * 1024**2, max_rows=10**9))
    assert list(tmp_path.iterdir()) == []  # nothing spilled to the disk either


def test_the_size_of_the_answer_is_limited(library: Library) -> None:
    with pytest.raises(QueryRejected, match="the result is larger than the memory"):
        ask(library, "SELECT repeat('x', 1000) FROM range(900000)", SqlLimits(max_memory_bytes=64 * 1024**2))


def test_the_clock_of_a_query_ends_with_it(library: Library) -> None:
    with library.catalog.connect() as connection:
        for _ in range(100):  # a thread that is merely told to end is mostly, not always, still there
            with _time_limit(connection, 60):
                pass
            assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_rows_are_limited_and_never_cut_silently(library: Library) -> None:
    limits = SqlLimits(max_rows=5000)
    assert ask(library, "SELECT * FROM range(5000)", limits).num_rows == 5000
    with pytest.raises(QueryRejected, match="more than 5000 rows; add a LIMIT"):
        ask(library, "SELECT * FROM range(1000000000000)", limits)


# ---------------------------------------------------------------------- words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (
            "SELECT * FROM medai",
            ['Did you mean "media"', "there are the views duplicate_pairs, frames, media, sources"],
        ),
        ("SELECT nmae FROM media", ['"nmae" not found', '"name"']),
        ("SELEC 1", ['syntax error at or near "SELEC"']),
        ("SELECT at FROM media", ["syntax error", 'need double quotes: "at"']),
        ("DROP VIEW media", ["DROP statements are not accepted; one SELECT"]),
        ("EXPLAIN DROP VIEW media", ["DROP statements are not accepted"]),
        ("SELECT 1; SELECT 2", ["2 statements were given instead of one"]),
        ("", ["0 statements were given"]),
        ("PIVOT frames ON frame_index", ["name them: PIVOT"]),
        (f"FROM read_text('{HOSTS}')", ["reaches outside the library; ask the views"]),
        ("SELECT $1", ["parameters"]),
        ("SELECT 'x'::INT", ["Could not convert string 'x' to INT32"]),
    ],
)
def test_errors_say_the_cause_and_what_to_do(library: Library, sql: str, words: list[str]) -> None:
    with pytest.raises(QueryRejected) as rejected:
        ask(library, sql)
    message = str(rejected.value)
    assert [word for word in words if word not in message] == [], message
    assert "LINE 1" not in message
