"""The new version beside the old: which rows are gained, lost, changed; and what a plan is expected to cost."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from media_pipeline.config import Reprocess
from media_pipeline.execution.comparison import compare, difference, sample_of
from media_pipeline.execution.expected import Expected, expected, gpu_price
from media_pipeline.execution.recompute import plan
from media_pipeline.storage.costs import Cost
from media_pipeline_tests._reprocess_home import MEDIA, Counted, Home

LINES = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        ("line_index", pa.int32()),
        ("text", pa.string()),
        ("score", pa.float32()),
    ]
)


def lines(*rows: tuple[str, int, int, str, float]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(LINES.names, row, strict=True)) for row in rows], schema=LINES)


def test_rows_are_told_apart_by_what_they_say_not_by_their_number() -> None:
    before = lines(("a", 0, 0, "one", 0.5), ("a", 0, 1, "two", 0.5), ("a", 0, 2, "three", 0.5), ("b", 0, 0, "x", 0.5))
    after = lines(
        ("a", 0, 0, "zero", 0.5), ("a", 0, 1, "one", 0.50001), ("a", 0, 2, "two!", 0.5), ("a", 7, 0, "y", 0.9)
    )
    found = difference("ocr", before, after)
    assert (found.before, found.after) == (4, 4)
    assert (found.same, found.changed, found.gained, found.lost) == (1, 2, 1, 1)
    changed, _, gained, lost = found.examples
    assert changed.before == {"media_id": "a", "frame_index": 0, "text": "two"}
    assert changed.after == {"media_id": "a", "frame_index": 0, "text": "zero"}
    assert gained.after is not None and (gained.before, gained.after["text"]) == (None, "y")
    assert lost.before is not None and lost.before["media_id"] == "b"


def test_the_same_row_twice_counts_twice() -> None:
    row = ("a", 0, 0, "one", 0.5)
    found = difference("ocr", lines(row, row, row), lines(row, row))
    assert (found.same, found.changed, found.gained, found.lost) == (2, 0, 0, 1)


def test_a_column_that_is_new_changes_the_rows() -> None:
    before = lines(("a", 0, 0, "one", 0.5))
    after = before.append_column("language", pa.array(["de"]))
    found = difference("ocr", before, after)
    assert (found.changed, found.examples[0].after) == (1, {"media_id": "a", "frame_index": 0, "language": "de"})


@pytest.mark.parametrize(
    ("count", "expected_ids"), [(2, ["a", "c"]), (4, ["a", "b", "c", "d"]), (9, ["a", "b", "c", "d"])]
)
def test_a_sample_is_spread_over_all(count: int, expected_ids: list[str]) -> None:
    assert sample_of(["a", "b", "c", "d"], count) == expected_ids


@pytest.mark.slow
def test_a_comparison_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run()
    pipeline = home.open(scale=2.0)
    stale = plan(pipeline, ["second"])
    entries = pipeline.ledger.entries()
    first, second = compare(pipeline, stale, MEDIA[:2])
    assert (first.analyzer, first.media, first.same, first.changed) == ("first", 2, 0, 2)
    assert [e.after["value"] for e in second.examples if e.after] == [194, 196]
    assert home.values(pipeline) == [97, 98, 99]
    assert pipeline.ledger.entries() == entries
    assert pipeline.kept.ledger.entries() == {}
    assert not pipeline.layout.sample.exists()
    assert plan(pipeline, ["second"]).pairs.equals(stale.pairs)


@pytest.mark.slow
def test_what_fails_only_now_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run()
    broken = Counted(version="2")
    monkeypatch.setattr(broken, "_run", lambda *_: 1 / 0)
    home.use(broken)
    pipeline = home.open()
    [first, _] = compare(pipeline, plan(pipeline, ["second"]), MEDIA)
    assert first.failed.keys() == set(MEDIA)
    assert all("ZeroDivisionError" in reason for reason in first.failed.values())
    assert (first.lost, first.gained) == (3, 0)


@pytest.mark.slow
def test_the_cost_is_what_was_measured_here_and_nothing_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run()
    pipeline = home.run(scale=2.0)
    assert [p.cpu_minutes for p in expected(home.open(), plan(home.open(), ["second"]))] == [0.0, 0.0], "all kept"
    changed = home.open(scale=3.0)
    changed.costs.record(Cost("first", "scale", "cpu", 4, 0, 0.0, 1200.0, 1.0))
    [first, second] = expected(changed, plan(changed, ["second"]))
    [measured] = [row for row in pipeline.costs.table().to_pylist() if row["analyzer"] == "first"]
    assert first.cpu_minutes == pytest.approx(3 * measured["cpu_s_per_medium"] / 60)
    assert first.cpu_minutes > 1
    assert (first.pairs, first.restorable, first.basis) == (3, 0, "measured here, per medium")
    assert second.pairs == 3


def test_an_analyzer_that_never_ran_has_no_known_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run()
    pipeline = home.open(scale=2.0)
    monkeypatch.setattr("media_pipeline.execution.expected.machine", lambda: "another machine")
    assert [p.cpu_minutes for p in expected(pipeline, plan(pipeline, ["second"]))] == [None, None]


def test_a_gpu_is_priced_by_the_users_own_figures() -> None:
    parts = [
        Expected("media", 10, 0, 600.0, "", on_gpu=False),
        Expected("ocr", 10, 0, 120.0, "", on_gpu=True),
        Expected("labels", 10, 0, None, "", on_gpu=True),
    ]
    assert gpu_price(parts, Reprocess()) is None
    price = gpu_price(parts, Reprocess(gpu_usd_per_hour=0.5, gpu_speedup=10))
    assert price is not None and price.usd == pytest.approx(0.1)
    assert "10 times as fast as one CPU core" in price.basis
    assert "no faster than" in gpu_price(parts, Reprocess(gpu_usd_per_hour=0.5)).basis  # type: ignore[union-attr]
    assert gpu_price(parts[2:], Reprocess(gpu_usd_per_hour=0.5)) is None
