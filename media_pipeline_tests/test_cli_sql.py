from __future__ import annotations

import csv
import io
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import media_pipeline.cli.sql as command
from media_pipeline.config import Settings, SqlLimits
from media_pipeline.errors import QueryRejected, UsageError
from media_pipeline_tests._library import Library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    library = Library(tmp_path_factory.mktemp("cli_sql") / "home", ["media", "frames"])
    library.put_media("a", "b")
    library.put("frames", [{"media_id": "a", "frame_index": k, "pts_s": k / 2} for k in range(3)])
    return library


def ask(library: Library, *args: str, stdin: str | None = None, **limits: int) -> Result:
    app = SimpleNamespace(catalog=lambda: library.catalog, settings=Settings(sql=SqlLimits(**limits)))
    return CliRunner().invoke(command.sql, list(args), obj=app, input=stdin)


EVERY_KIND = """
    SELECT 'ü "x", y' AS text, 1.5::DOUBLE AS score, 'nan'::DOUBLE AS nothing, 'inf'::FLOAT AS endless, NULL AS missing,
        TIMESTAMPTZ '2026-01-02 03:04:05+00' AS at_tz, DATE '2026-01-02' AS day, INTERVAL 90 SECONDS AS span,
        1.10::DECIMAL(4, 2) AS price, 3::DECIMAL(4, 0) AS whole, 170141183460469231731687303715884105727 AS huge,
        '\\xFF'::BLOB AS raw, [1, NULL] AS items, {'word': 'da', 'start_s': 'nan'::DOUBLE} AS word,
        MAP {'k': [true]} AS map,        '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID AS id, 1 AS twice, 2 AS twice
"""


def test_json_is_an_array_of_plain_values(library: Library) -> None:
    result = ask(library, EVERY_KIND, "--format", "json")
    assert result.exit_code == 0, result.exception
    (row,) = json.loads(result.stdout)
    assert row == {
        "text": 'ü "x", y',
        "score": 1.5,
        "nothing": None,
        "endless": None,
        "missing": None,
        "at_tz": "2026-01-02T03:04:05+00:00",
        "day": "2026-01-02",
        "span": "P0M0DT90S",
        "price": 1.1,
        "whole": 3,
        "huge": 170141183460469231731687303715884105727,
        "raw": "/w==",
        "items": [1, None],
        "word": {"word": "da", "start_s": None},
        "map": [["k", [True]]],
        "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "twice": 1,
        "twice_1": 2,
    }


def test_json_of_no_and_of_many_rows(library: Library) -> None:
    assert json.loads(ask(library, "FROM media WHERE false", "--format", "json").stdout) == []
    many = json.loads(ask(library, "SELECT range AS n FROM range(10000)", "--format", "json").stdout)
    assert [row["n"] for row in many] == list(range(10000))


def test_csv_has_a_header_and_nested_values_as_json(library: Library) -> None:
    sql = "SELECT 'a,\"b\"\nc' AS text, NULL AS missing, [1, 2] AS items, {'w': 'ü'} AS word, 0.5::DOUBLE AS score"
    said = ask(library, sql, "--format", "csv").stdout
    assert "\r" not in said
    rows = list(csv.reader(io.StringIO(said, newline="")))
    assert rows == [
        ["text", "missing", "items", "word", "score"],
        ['a,"b"\nc', "", "[1, 2]", '{"w": "ü"}', "0.5"],
    ]


def test_parquet_to_a_file_and_to_a_pipe(library: Library, tmp_path: Path) -> None:
    target = tmp_path / "answer.parquet"
    result = ask(library, "FROM frames", "--format", "parquet", "--output", str(target))
    assert result.exit_code == 0, result.exception
    assert result.stdout_bytes == b""
    assert pq.read_table(target)["pts_s"].to_pylist() == [0.0, 0.5, 1.0]
    piped = ask(library, "SELECT 1 AS a, 2 AS a", "--format", "parquet").stdout_bytes
    assert pq.read_table(io.BytesIO(piped)).to_pylist() == [{"a": 1, "a_1": 2}]


@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_output_replaces_a_file_whole(library: Library, tmp_path: Path, format_: str) -> None:
    target = tmp_path / "answer"
    target.write_text("old and much longer than the new answer will be" * 100)
    assert ask(library, "SELECT 42 AS n", "--format", format_, "--output", str(target)).exit_code == 0
    assert "42" in target.read_text()
    assert "old" not in target.read_text()
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_that_cannot_be_written_says_so(library: Library, tmp_path: Path) -> None:
    result = ask(library, "SELECT 1", "--output", str(tmp_path / "missing" / "answer"))
    assert isinstance(result.exception, UsageError)
    assert "cannot be written: No such file or directory" in str(result.exception)


def test_the_query_can_come_from_standard_input(library: Library) -> None:
    assert json.loads(ask(library, "-", "--format", "json", stdin="SELECT 7 AS n\n").stdout) == [{"n": 7}]


def test_the_limits_of_the_settings_hold(library: Library) -> None:
    result = ask(library, "SELECT * FROM range(11)", max_rows=10)
    assert isinstance(result.exception, QueryRejected)
    assert "more than 10 rows" in str(result.exception)
    assert result.stdout == ""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the kernel's limit on data is Linux'")
@pytest.mark.parametrize("sql", ["SELECT unnest(range(100000000))", "SELECT repeat('x', 2000000000)"])
def test_what_duckdb_does_not_count_is_limited_by_the_kernel(library: Library, sql: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    result = ask(library, sql, max_memory_bytes=128 * 1024**2)
    assert isinstance(result.exception, QueryRejected)
    assert "needs more than 128 MiB of memory" in str(result.exception)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


# One call of a function that takes minutes: DuckDB does not look up from it when it is told to stop.
LONG = "levenshtein(repeat('a', 200000), repeat('b', 200000))"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["sql", f"SELECT {LONG}"], ["search", "--where", f"{LONG} > 0"]])
def test_what_cannot_be_interrupted_ends_with_its_process(library: Library, arguments: list[str]) -> None:
    program = "from media_pipeline.cli import _asking, main; _asking.GRACE_S = 0.5; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--home", str(library.layout.home), *arguments],
        env=os.environ | {"MEDIA_PIPELINE_SQL__MAX_SECONDS": "0.5"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith(
        "media-pipeline: the query ran longer than 0.5 s; narrow it down or raise MEDIA_PIPELINE_SQL__MAX_SECONDS\n"
    )


def test_nothing_watches_a_query_that_is_answered(library: Library) -> None:
    assert ask(library, "SELECT 1").exit_code == 0
    assert [one for one in threading.enumerate() if isinstance(one, threading.Timer)] == []


def test_a_piped_table_is_whole(library: Library) -> None:
    long = "x" * 300
    result = ask(library, f"SELECT '{long}' AS text, range AS n FROM range(3)")
    assert result.stdout.count(long) == 3
    assert "3 rows" in result.stderr
    assert "…" not in result.stdout


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, library: Library, query: str) -> tuple[str, str]:
    """What a person sees: standard output claims to be a terminal of that width."""
    runner = CliRunner()
    app = SimpleNamespace(catalog=lambda: library.catalog, settings=Settings())
    monkeypatch.setenv("COLUMNS", str(columns))
    with runner.isolation() as (out, err, _):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        command.sql.main([query], standalone_mode=False, obj=app)
        sys.stdout.flush()
        return out.getvalue().decode(), err.getvalue().decode()


def test_on_a_terminal_what_is_cut_is_said(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT repeat('x', 500) AS text, 1 AS small, 2 AS no_room_for_this_one, 3 AS nor_this"
    out, err = on_a_terminal(monkeypatch, 80, library, sql)
    assert max(map(len, out.splitlines())) <= 80
    assert "small" in out
    assert "no_room" not in out
    assert "columns without room: no_room_for_this_one, nor_this" in err
    assert "long cells are cut" in err


def test_on_a_terminal_only_the_first_rows(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = on_a_terminal(monkeypatch, 80, library, "SELECT range AS n FROM range(2500)")
    assert len(out.splitlines()) < 1010
    assert "2,500 rows (1,500 more rows; --format json shows everything)" in err


def test_control_characters_never_reach_the_terminal(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = on_a_terminal(monkeypatch, 80, library, "SELECT 'a' || chr(27) || '[31m' || chr(10) || '[bold]b' AS name")
    assert "\x1b" not in out
    assert r"a\x1b[31m\n[bold]b" in out


def test_binary_is_not_thrown_at_a_terminal(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    with runner.isolation():
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        with pytest.raises(UsageError, match="Parquet is binary"):
            command.sql.main(["SELECT 1", "--format", "parquet"], standalone_mode=False, obj=SimpleNamespace())


def test_explain_shows_the_plan_as_it_is_drawn(library: Library) -> None:
    assert "╭" in ask(library, "EXPLAIN SELECT count(*) FROM media").stdout
