"""The benchmark of large libraries, on a small one: that it measures what it says, never how fast anything is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import _scale_vectors
from benchmarks._scale_data import Models, batch, face_vectors, passage_vectors
from benchmarks._scale_document import LIBRARY, VECTORS, document
from benchmarks._scale_measures import Figure
from benchmarks._scale_one import figures
from benchmarks.scale import table_rows

MEDIA = 300
MODELS = Models("text@1", "face@1")


def test_the_library_is_the_same_every_time() -> None:
    once, again = batch(range(20, 40), MODELS), batch(range(20, 40), MODELS)
    assert once.ids == again.ids
    assert all(once.tables[name].equals(again.tables[name]) for name in once.tables)
    assert not set(once.ids) & set(batch(range(40, 60), MODELS).ids)


def test_vectors_lie_in_clusters() -> None:
    rng = np.random.default_rng(0)
    topics = np.repeat(np.arange(50), 4)
    for vectors in (passage_vectors(rng, topics), face_vectors(rng, topics)):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        cosines = vectors @ vectors.T
        same = (topics[:, None] == topics[None, :]) & ~np.eye(len(topics), dtype=bool)
        assert cosines[same].mean() > 0.5 > abs(cosines[topics[:, None] != topics[None, :]].mean())


def test_growth_is_held_against_the_sizes() -> None:
    sizes = (1_000, 10_000)

    def verdict(small: float, large: float, *, constant: bool = False) -> str:
        found = [{"a": Figure("a", value, "s", constant=constant)} for value in (small, large)]
        return table_rows(sizes, found)[0][-1]

    assert verdict(1, 10) == ""
    assert verdict(1, 20) == "MISSED"
    assert verdict(1, 1.5, constant=True) == ""
    assert verdict(1, 3, constant=True) == "MISSED"
    assert verdict(0.01, 0.09, constant=True) == ""  # who would notice?
    rows = table_rows((10,), [{"a": Figure("a", 0.5, "", at_least=0.9), "b": Figure("b", 1, "s", at_most=2)}])
    assert rows == [["a", "≥ 0.9", "0.5", "", "MISSED"], ["b", "≤ 2 s", "1 s", "", "ok"]]


def test_a_run_replaces_what_it_measured_and_nothing_else() -> None:
    once = document("", LIBRARY, [10, 100], [["searching", "", "1 s", "2 s", "x 2.0", "ok"]])
    assert "| searching |  | 1 s | 2 s | x 2.0 | ok |" in once
    assert "10 media | 100 media" in once
    both = document(once, VECTORS, [1_000], [["indexing", "", "3 s", "", ""]])
    assert both.startswith(once.rstrip("\n"))
    assert "1,000 vectors" in both
    again = document(both, LIBRARY, [20], [["searching", "", "4 s", "", ""]])
    assert "| indexing |  | 3 s |  |  |" in again
    assert "1 s" not in again
    assert document(again, LIBRARY, [20], [["searching", "", "4 s", "", ""]]) == again


@pytest.mark.slow
def test_vectors_alone_are_written_indexed_and_found(tmp_path: Path) -> None:
    found = {figure.name: figure for figure in _scale_vectors.figures(2_000, tmp_path)}
    assert found["face search by vector: 2000 as flat, p50"].value > 0
    assert found["face search, recall@10 against comparing all"].value == 1
    again = {figure.name.partition(":")[0] for figure in _scale_vectors.figures(2_000, tmp_path)}
    assert {name.partition(":")[0] for name in found} - again == {
        "writing them into the table",
        "building the index",
        "memory for that, peak",
        "… mapped files counted",
    }


@pytest.mark.slow
def test_a_small_library_is_built_and_measured(tmp_path: Path) -> None:
    found = {figure.name: figure for figure in figures(MEDIA, tmp_path / "home", Console(quiet=True))}
    by_start = {name.partition(":")[0]: figure for name, figure in found.items()}
    assert sum(name.startswith("SQL: ") for name in found) == 11
    assert by_start["ledger plan after a new ocr"].name.endswith(f"{MEDIA * 9 // 10 * 4} pairs")
    for name in ("ledger plan, pairs missed", "ledger plan, pairs too many"):
        assert found[name].value == 0
    for space in ("text", "face"):
        assert found[f"{space} search, recall@10 against comparing all"].ok
    assert {"sensor tick, nothing new", "64 new media: tables and ledger", "building it"} <= found.keys()
