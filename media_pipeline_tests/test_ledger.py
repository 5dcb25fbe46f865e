from __future__ import annotations

import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from media_pipeline.storage.ledger import Entry, Ledger
from media_pipeline.storage.schemas import ANALYSES
from media_pipeline.storage.tables import Tables

NOW = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables", tmp_path / "locks")


def entry(media_id: str, analyzer: str = "ocr", status: str = "done", reason: str | None = None) -> Entry:
    return Entry(media_id, analyzer, "f" * 16, status, reason, 3, 0.25, "cpu", "PP-OCRv6 small", "run-1", NOW)


def test_an_empty_library_has_an_empty_ledger(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.record([])
    assert ledger.entries() == {}
    assert ledger.counts() == {}
    assert ledger.failures() == []
    assert not tables.exists("analyses")


def test_entries_come_back_as_they_were_recorded(tables: Tables) -> None:
    full = entry("a")
    sparse = replace(entry("b", status="failed", reason="no\nsound — 100 %"), device=None, model=None, run_id=None)
    Ledger(tables).record([full, sparse])
    assert Ledger(tables).entries() == {("a", "ocr"): full, ("b", "ocr"): sparse}


def test_a_record_replaces_its_pairs_and_no_others(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.record([entry("a", "ocr"), entry("a", "scenes"), entry("b", "ocr")])
    version = tables.version("analyses")
    ledger.record([entry("a", "ocr", "failed", "broken"), entry("b", "scenes")])
    assert tables.version("analyses") == version + 1
    assert {pair: e.status for pair, e in ledger.entries().items()} == {
        ("a", "ocr"): "failed",
        ("a", "scenes"): "done",
        ("b", "ocr"): "done",
        ("b", "scenes"): "done",
    }


def test_of_equal_pairs_in_one_record_the_last_counts(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.record([entry("a", status="failed", reason="first try"), entry("a")])
    assert ledger.entries() == {("a", "ocr"): entry("a")}


def test_entries_of_some_media_and_analyzers(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.record([entry(m, a) for m in "abc" for a in ("ocr", "scenes", "transcript")])
    assert ledger.entries(["a", "zzz"]).keys() == {("a", "ocr"), ("a", "scenes"), ("a", "transcript")}
    assert ledger.entries(["a", "b"], ["ocr"]).keys() == {("a", "ocr"), ("b", "ocr")}
    assert len(ledger.entries(analyzers=["ocr", "scenes"])) == 6
    assert ledger.entries([]) == {}


def test_counts_and_failures_with_reasons(tables: Tables) -> None:
    ledger = Ledger(tables)
    late = replace(entry("c", "transcript", "unavailable", "no weights"), at=NOW + timedelta(hours=1))
    broken = entry("b", "ocr", "failed", "truncated")
    ledger.record([entry("a"), broken, late, entry("a", "transcript")])
    assert ledger.counts() == {"ocr": {"done": 1, "failed": 1}, "transcript": {"done": 1, "unavailable": 1}}
    assert ledger.failures() == [late, broken]
    assert ledger.failures(["b"]) == [broken]


def test_what_is_forgotten_is_unknown_and_the_rest_stays(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.forget([("a", "ocr")])  # nothing is known yet
    ledger.record([entry("a", "ocr"), entry("a", "scenes"), entry("b", "ocr")])
    ledger.forget([("a", "ocr"), ("b", "scenes")])
    assert ledger.entries().keys() == {("a", "scenes"), ("b", "ocr")}


def test_a_scan_reads_a_ledger_that_is_older_than_its_columns(tables: Tables) -> None:
    old = pa.schema([field for field in ANALYSES if field.name not in ("version", "options")])
    assert Ledger(tables).scan(("media_id", "version")).num_rows == 0
    tables.ensure("analyses", old)
    row = {name: value for name, value in asdict(entry("a")).items() if name in old.names}
    tables.replace("analyses", pa.Table.from_pylist([row], schema=old), ["a"])
    ledger = Ledger(tables)
    assert ledger.entries() == {("a", "ocr"): entry("a")}
    assert ledger.scan(("media_id", "version", "at")).to_pylist() == [{"media_id": "a", "version": None, "at": NOW}]
    ledger.record([replace(entry("b"), version="2")])
    assert ledger.entries()["a", "ocr"].version is None
    assert sorted(ledger.scan(("media_id", "version")).to_pydict()["version"], key=str) == ["2", None]


def test_thousands_of_entries_are_one_commit(tables: Tables) -> None:
    ledger = Ledger(tables)
    ledger.record([entry(f"{number:05}", analyzer) for number in range(2500) for analyzer in ("ocr", "scenes")])
    ledger.record([entry(f"{number:05}", "ocr", "failed", "again") for number in range(2500)])
    assert tables.version("analyses") == 2
    assert ledger.counts() == {"ocr": {"failed": 2500}, "scenes": {"done": 2500}}


def test_analyzers_that_record_the_same_media_at_once_do_not_lose_each_other(tmp_path: Path) -> None:
    """Read, merge and write are one step: also without a common lock."""
    analyzers = ["ocr", "scenes", "transcript"]
    ready = threading.Barrier(len(analyzers))

    def work(analyzer: str) -> None:
        ledger = Ledger(Tables(tmp_path / "tables", tmp_path / f"locks-{analyzer}"))
        ready.wait()
        for media_id in "ab":
            ledger.record([entry(media_id, analyzer)])

    threads = [threading.Thread(target=work, args=(analyzer,)) for analyzer in analyzers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = Ledger(Tables(tmp_path / "tables", tmp_path / "locks")).entries()
    assert found.keys() == {(media_id, analyzer) for media_id in "ab" for analyzer in analyzers}
