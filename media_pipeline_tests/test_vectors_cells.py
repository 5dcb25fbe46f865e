"""Large indexes: cells and codes, how many are looked into, and that what is erased is gone from all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.config import IndexLimits
from media_pipeline.storage._vector_cells import Filler, kind_for, probes_for, trained
from media_pipeline.storage._vector_search import EXACT_SUBSET
from media_pipeline.storage.vectors import VectorIndex
from media_pipeline_tests.test_vectors import DIM, SPACE, Home

MIB = 1 << 20


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


LARGE = IndexLimits(exact_up_to=1_000, min_recall=0.98)


def large(home: Home, limits: IndexLimits = LARGE) -> VectorIndex:
    return VectorIndex(home.tables, home.layout, SPACE, limits)


def many(home: Home, letter: str, count: int = 100) -> list[str]:
    media = [f"{letter}{n}" for n in range(count)]
    home.put(*media, rows=20)
    return media


def recall(home: Home, index: VectorIndex, k: int = 10) -> float:
    queries = list(home.truth.values())[:: len(home.truth) // 50]
    found = 0
    for query in queries:
        near = {(n.row["media_id"], n.row["number"]) for n in index.search(query, k, ("media_id", "number"))}
        found += len(near & set(home.nearest(query, k)))
    return found / (k * len(queries))


@pytest.mark.parametrize(
    ("vectors", "memory", "kind"),
    [
        (0, 1024 * MIB, "flat"),
        (100_000, 1024 * MIB, "flat"),
        (100_000, 100 * MIB, "SQ8"),
        (1_000_000, 1024 * MIB, "SQ8"),
        (1_000_000, 700 * MIB, "SQ8"),
        (1_000_000, 200 * MIB, "SQ4"),
        (10_000_000, 4096 * MIB, "SQ8"),
        (10_000_000, 2048 * MIB, "SQ4"),
        (10_000_000, 1024 * MIB, "PQ96"),
        (10_000_000, 1, "PQ96"),
    ],
)
def test_the_codes_follow_number_and_memory(vectors: int, memory: int, kind: str) -> None:
    assert kind_for(vectors, 384, IndexLimits(max_memory_bytes=memory)) == kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (IndexLimits(exact_up_to=1_000, min_recall=0.98), "SQ8"),
        (IndexLimits(exact_up_to=1_000, min_recall=0.98, max_memory_bytes=4_000 * 20), "SQ4"),
        (IndexLimits(exact_up_to=1_000, min_recall=0.8, max_memory_bytes=4_000 * 13), "PQ4"),
    ],
)
def test_cells_find_nearly_what_comparing_all_finds(home: Home, limits: IndexLimits, kind: str) -> None:
    many(home, "a")
    many(home, "b")
    index = large(home, limits)
    state = index.refresh()
    assert (state.kind, state.vectors, state.trained_rows) == (kind, 4_000, 4_000)
    assert state.recall is not None
    assert state.recall >= limits.min_recall
    assert recall(home, index) >= limits.min_recall - 0.03


@pytest.mark.slow
def test_segments_that_are_searched_at_once_find_what_each_alone_does(home: Home) -> None:
    for letter in "abcdefghi":
        many(home, letter, 30)
    index = large(home, IndexLimits(exact_up_to=1_000, min_recall=1))
    index.refresh()
    assert recall(home, index) > 0.99
    # More than there are in any of the segments; none of them twice.
    near = index.search(next(iter(home.truth.values())), 2_000, ("media_id", "number"))
    assert len({(n.row["media_id"], n.row["number"]) for n in near}) == 2_000
    assert len({n.row["media_id"][0] for n in near}) == 9


@pytest.mark.slow
def test_cells_in_groups_hold_what_they_hold_without(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    many(home, "a")
    many(home, "b")
    index = large(home)
    plain = index.refresh()
    monkeypatch.setattr("media_pipeline.storage._vector_cells._UNGROUPED_CELLS", 10)
    monkeypatch.setattr("media_pipeline.storage._vector_cells._NEAREST_GROUPS", 2)
    vectors = np.array(list(home.truth.values()))
    grouped = Filler(home.layout.indexes / plain.trained).cells_of(vectors)
    monkeypatch.undo()
    nearest = Filler(home.layout.indexes / plain.trained).cells_of(vectors)
    assert 0.6 < (grouped == nearest).mean() < 1, "a quarter of the groups"
    monkeypatch.setattr("media_pipeline.storage._vector_cells._UNGROUPED_CELLS", 10)
    for path in home.layout.indexes.iterdir():
        path.unlink()
    assert index.refresh().vectors == 4_000
    assert recall(home, index) > 0.95


def test_scores_are_exact_although_the_codes_are_not(home: Home) -> None:
    many(home, "a")
    index = large(home)
    query = next(iter(home.truth.values()))
    found = index.search(query, 10, ("media_id", "number"))
    expected = [float(home.truth[n.row["media_id"], n.row["number"]] @ query) for n in found]
    assert [n.score for n in found] == pytest.approx(expected, abs=1e-3)
    assert expected == sorted(expected, reverse=True)


def test_trained_is_on_vectors_of_all_files_though_not_all_are_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_pipeline.storage._files.VECTOR_GROUP_ROWS", 50)
    monkeypatch.setattr("media_pipeline.storage.vectors.training_size", lambda rows: 200)
    for letter in "abcd":
        many(home, letter)
    home.put("alone", rows=40)
    index = large(home)
    places = {vector.tobytes(): media_id[0] for (media_id, _), vector in home.truth.items()}
    sample = index._sample(index._files(), 8_040)
    found = Counter(places[vector.tobytes()] for vector in sample)
    assert found.total() == pytest.approx(200, rel=0.2)
    assert all(found[letter] == pytest.approx(50, rel=0.2) for letter in "bcd")
    assert found["a"] > 50, "and one of the file with few"


@pytest.mark.slow
def test_batches_come_and_go_without_training_again(home: Home) -> None:
    many(home, "a")
    index = large(home)
    cells = index.refresh().trained
    many(home, "b", 20)
    home.tables.delete("toys", ["a3", "a4"])
    home.forget("a3", "a4")
    home.put("a5", rows=7)
    state = index.refresh()
    assert state.trained == cells
    assert state.vectors == len(home.truth)
    assert recall(home, index) > 0.95
    gone = index.search(next(iter(home.truth.values())), 4_000, ("media_id",))
    assert not {"a3", "a4"} & {n.row["media_id"] for n in gone}


@pytest.mark.slow
def test_an_index_that_has_grown_is_trained_again(home: Home) -> None:
    many(home, "a", 60)
    index = large(home)
    before = index.refresh()
    for letter in "bcde":
        many(home, letter, 60)
    after = index.refresh()
    assert after.trained != before.trained
    assert after.trained_rows == 6_000
    assert not (home.layout.indexes / before.trained).exists()
    assert recall(home, index) > 0.95


def test_erased_vectors_leave_every_file(home: Home) -> None:
    media = many(home, "a")
    index = large(home)
    index.refresh()
    vector = home.truth["a7", 3].astype(np.float16).tobytes()

    def holders() -> list[str]:
        return [p.name for p in home.layout.indexes.iterdir() if vector in p.read_bytes()]

    files = {p.name for p in home.layout.indexes.iterdir() if p.suffix in (".vectors", ".cells")}
    assert holders()
    home.tables.delete("toys", ["a7"])
    index.refresh()
    assert holders() == []
    assert not files & {p.name for p in home.layout.indexes.iterdir()}, "one file held all: it is made anew"
    assert index.count() == (len(media) - 1) * 20


def test_no_cell_has_a_single_vector_as_its_centre() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(2_000, DIM)).astype(np.float32)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    # Far from all others: k-means gives it a cell of its own.
    alone = -sample.sum(axis=0) / np.linalg.norm(sample.sum(axis=0))
    sample = np.concatenate([np.abs(sample), alone[None].astype(np.float32)])
    index = trained(sample, 2_001, "SQ8")
    centres = index.quantizer.reconstruct_n()
    assert (centres @ alone).max() < 0.999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "cells"])
@pytest.mark.parametrize("chosen", [1, 30])
def test_only_chosen_media_are_found(home: Home, kind: str, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.storage._vector_search.EXACT_SUBSET", 100)
    assert EXACT_SUBSET > 100
    many(home, "a")
    many(home, "b", 20)
    index = large(home) if kind == "cells" else home.index(exact_up_to=100_000)
    media = {f"a{n}" for n in range(chosen)}
    query = home.truth["b3", 0]
    expected = [key for key in home.nearest(query, 2_400) if key[0] in media][:10]
    found = index.search(query, 10, ("media_id", "number"), media_ids=media)
    assert [(n.row["media_id"], n.row["number"]) for n in found] == expected
    assert index.search(query, 10, ("media_id",), media_ids=()) == []
    assert index.search(query, 10, ("media_id",), media_ids=["unknown"]) == []


@pytest.mark.slow
def test_chosen_media_are_left_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.storage._vector_search.EXACT_SUBSET", 100)
    many(home, "a")
    index = large(home)
    query = home.truth["a3", 0]
    first = home.nearest(query, 200)
    out = {media for media, _ in first[:5]}
    expected = [key for key in first if key[0] not in out][:10]
    found = index.search(query, 10, ("media_id", "number"), without=out)
    assert [(n.row["media_id"], n.row["number"]) for n in found] == expected


def test_vectors_that_are_all_the_same(home: Home) -> None:
    many(home, "a")
    same = np.ones(DIM, np.float32) / np.sqrt(DIM, dtype=np.float32)
    table = home.tables.read("toys")
    field = table.field("embedding")
    column = pa.array([same.tolist()] * table.num_rows, field.type)
    at = table.column_names.index("embedding")
    home.tables.replace("toys", table.set_column(at, field, column), table["media_id"].to_pylist())
    assert large(home).search(same, 5, ("media_id",))[0].score == pytest.approx(1, abs=1e-3)


def test_probes_stop_where_the_recall_is_reached() -> None:
    assert probes_for(lambda probes: probes / 100, 1_000, 0.3) == (32, 0.32)
    assert probes_for(lambda probes: 0.5, 100, 0.9) == (100, 0.5)
    assert probes_for(lambda probes: 1.0, 2, 0.9) == (2, 1.0)
