from __future__ import annotations

import json
import threading
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from media_pipeline.config import IndexLimits
from media_pipeline.storage import vectors
from media_pipeline.storage._vector_files import Rows, read_rows
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex

DIM = 16
SPACE = Space("toy", "toys", "model@1", DIM)
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("number", pa.int64()),
        ("model", pa.string()),
        ("embedding", pa.list_(pa.float32(), DIM)),
    ]
)
Array = npt.NDArray[np.float32]


class Home:
    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        self.layout.create()
        self.tables = Tables(self.layout.tables, self.layout.locks)
        self.tables.ensure("toys", SCHEMA)
        self.rng = np.random.default_rng(0)
        self.truth: dict[tuple[str, int], Array] = {}

    def index(self, space: Space = SPACE, exact_up_to: int = 1_000) -> VectorIndex:
        return VectorIndex(self.tables, self.layout, space, IndexLimits(exact_up_to=exact_up_to))

    def put(self, *media: str, rows: int = 5, model: str = "model@1") -> None:
        vectors = self.rng.normal(size=(len(media) * rows, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        keys = [(m, n) for m in media for n in range(rows)]
        self.forget(*media)
        self.truth.update(zip(keys, vectors, strict=True))
        columns = [[m for m, _ in keys], [n for _, n in keys], [model] * len(keys), vectors.tolist()]
        self.tables.replace("toys", pa.table(columns, schema=SCHEMA), media)

    def forget(self, *media: str) -> None:
        self.truth = {key: v for key, v in self.truth.items() if key[0] not in media}

    def nearest(self, query: Array, k: int) -> list[tuple[str, int]]:
        return sorted(self.truth, key=lambda key: -float(self.truth[key] @ query))[:k]

    def check(self, index: VectorIndex, k: int = 5) -> None:
        query = next(iter(self.truth.values()))
        found = index.search(query, k, ("media_id", "number"))
        assert [(n.row["media_id"], n.row["number"]) for n in found] == self.nearest(query, k)
        assert [n.score for n in found] == pytest.approx(
            [float(self.truth[key] @ query) for key in self.nearest(query, k)], abs=1e-6
        )
        assert index.count() == len(self.truth)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def index_files(home: Home) -> list[Path]:
    return sorted(home.layout.indexes.iterdir())


def sidecar(home: Home) -> Path:
    return home.layout.indexes / "toy.json"


def test_nothing_yet(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    index = VectorIndex(Tables(layout.tables, layout.locks), layout, SPACE)
    assert index.search(np.ones(DIM, np.float32), 3, ("media_id",)) == []
    assert index.count() == 0


def test_added_replaced_and_erased(home: Home) -> None:
    index = home.index()
    home.put("a", "b", "c")
    home.check(index)
    home.put("d", "e")
    home.check(index)
    home.put("b", "d", rows=3)
    home.check(index)
    home.tables.delete("toys", ["a", "c"])
    home.forget("a", "c")
    home.check(index)
    home.tables.compact("toys")
    home.check(index)
    home.tables.delete("toys", ["b", "d", "e"])
    home.forget("b", "d", "e")
    assert index.search(np.ones(DIM, np.float32), 3, ("media_id",)) == []
    home.put("z")
    home.check(index)


def test_found_rows_come_from_whichever_groups_they_lie_in(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups to a file, a few of them asked for, in no order; and a file that took another's place."""
    monkeypatch.setattr("media_pipeline.storage._files.VECTOR_GROUP_ROWS", 4)
    home.put(*"abcdefgh")
    home.put(*"ijk")
    index = home.index()
    for k in (1, 3, 30):
        home.check(index, k)
    home.tables.delete("toys", ["c", "j"])
    home.forget("c", "j")
    home.check(index, 30)


def test_chosen_media_are_left_out(home: Home) -> None:
    home.put("a", "b", "c")
    home.put("d", "e")
    query = home.truth["a", 0]
    for out in (["a"], ["a", "unknown"], ["a", "b", "d"], [*"abcde"]):
        expected = [key for key in home.nearest(query, 99) if key[0] not in out]
        found = home.index().search(query, 99, ("media_id", "number"), without=out)
        assert [(n.row["media_id"], n.row["number"]) for n in found] == expected
        among = home.index().search(query, 99, ("media_id", "number"), ["a", "b", "e"], without=out)
        assert [(n.row["media_id"], n.row["number"]) for n in among] == [k for k in expected if k[0] in "abe"]


def test_what_is_left_of_an_old_file_is_found_beside_younger_ones(home: Home) -> None:
    index = home.index()
    home.put("a", "b", "c")
    home.put("d", "e")
    index.refresh()
    home.put("b")  # the first file is written anew, and gets a segment younger than that of the second
    for query in home.truth.values():
        found = index.search(query, 3, ("media_id", "number"))
        assert [(n.row["media_id"], n.row["number"]) for n in found] == home.nearest(query, 3)


def test_only_what_changed_is_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.put("a", "b")
    home.put("c", "d")
    home.index().refresh()
    before = set(index_files(home))
    home.put("e")
    added: list[Path] = []

    def reading(path: Path, space: Space) -> Rows:
        added.append(path)
        return read_rows(path, space)

    monkeypatch.setattr(vectors, "read_rows", reading)
    home.check(home.index())
    assert [path.name for path in added] == [Path(home.tables.files("toys")[-1]).name]
    assert before < set(index_files(home)), "segments that stand are not written again"
    home.index().refresh()
    assert len(added) == 1


def test_nothing_is_left_of_what_has_gone(home: Home) -> None:
    for name in "abc":
        home.put(name)
    home.index().refresh()
    erased = home.truth["b", 2].tobytes()
    assert any(erased in path.read_bytes() for path in index_files(home))
    home.tables.delete("toys", ["b"])
    home.index().refresh()
    assert not any(erased in path.read_bytes() for path in index_files(home))


def test_leftovers_of_a_killed_process_go(home: Home) -> None:
    home.put("a")
    index = home.index()
    index.refresh()
    stranger = home.layout.indexes / "toy.0123456789ab.vectors"
    stranger.write_bytes(b"written and never named")
    home.check(index)
    assert not stranger.exists()


def test_the_sidecar_tells_what_the_index_is_of(home: Home) -> None:
    for name in "abc":
        home.put(name)
        home.index().refresh()
    known = json.loads(sidecar(home).read_text())
    assert (known["model"], known["metric"], known["dimension"]) == ("model@1", "inner_product", DIM)
    assert known["table_version"] == home.tables.version("toys")
    assert (known["kind"], home.index().count()) == ("flat", 15)
    assert sorted(known["segments"]) == sorted(Path(path).name for path in home.tables.files("toys"))
    assert len(index_files(home)) == 1 + 3


@pytest.mark.parametrize(
    "damage", ["truncate", "overwrite", "delete", "sidecar gone", "sidecar torn", "sidecar strange"]
)
def test_a_damaged_index_is_made_again(home: Home, damage: str) -> None:
    home.put("a", "b", "c")
    home.check(home.index())
    index = next(path for path in index_files(home) if path.suffix == ".vectors")
    size = index.stat().st_size
    if damage == "truncate":
        index.write_bytes(index.read_bytes()[: size // 2])
    elif damage == "overwrite":
        index.write_bytes(b"\xff" * size)
    elif damage == "delete":
        index.unlink()
    elif damage == "sidecar gone":
        sidecar(home).unlink()
    elif damage == "sidecar torn":
        sidecar(home).write_text(sidecar(home).read_text()[:40])
    else:
        sidecar(home).write_text('["segments"]')
    home.check(home.index())


def test_a_damaged_index_is_made_again_when_rows_are_added(home: Home) -> None:
    home.put("a", "b", "c")
    home.index().refresh()
    index = next(path for path in index_files(home) if path.suffix == ".vectors")
    index.write_bytes(b"\xff" * index.stat().st_size)
    home.put("d")
    home.check(home.index())


def test_vectors_of_another_model_are_never_compared(home: Home) -> None:
    home.put("old", model="model@0")
    home.forget("old")
    home.put("new")
    home.check(home.index(), k=20)
    other = home.index(Space("toy", "toys", "model@0", DIM))
    assert {n.row["media_id"] for n in other.search(np.ones(DIM, np.float32), 99, ("media_id",))} == {"old"}
    # One index per space stays on the disk: in another one, erased rows would live on unseen.
    assert {json.loads(p.read_text())["model"] for p in index_files(home) if p.suffix == ".json"} == {"model@0"}
    home.check(home.index(), k=20)


def test_rows_without_a_vector_are_left_out(home: Home) -> None:
    home.put("a", "b")
    home.tables.replace("toys", pa.table({"media_id": ["c"], "number": [0], "model": ["model@1"]}), ["c"])
    home.check(home.index(), k=20)


def test_an_index_that_shrank_is_exact_again(home: Home) -> None:
    index = home.index(exact_up_to=100)
    home.put(*(f"m{n}" for n in range(40)))
    assert index.refresh().kind == "SQ8"
    home.tables.delete("toys", [f"m{n}" for n in range(8, 40)])
    home.forget(*(f"m{n}" for n in range(8, 40)))
    assert index.refresh().kind == "flat"
    home.check(index)


def _refresh_often(folder: Path, prefix: str) -> None:
    home = Home(folder)
    for n in range(4):
        home.put(f"{prefix}{n}")
        home.index().refresh()


@pytest.mark.slow
def test_two_processes_at_once(home: Home) -> None:
    processes = [get_context("spawn").Process(target=_refresh_often, args=(home.layout.home, p)) for p in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert home.index().count() == 40
    assert len(index_files(home)) == 1 + len(home.tables.files("toys"))


def test_threads_search_while_the_table_changes(home: Home) -> None:
    home.put("fixed")
    query = home.truth["fixed", 2]
    stop, seen, errors = threading.Event(), [], []

    def look() -> None:
        index = home.index()
        while not stop.is_set():
            try:
                seen.append(index.search(query, 1, ("media_id", "number"))[0].row)
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(6):
        home.put(f"m{n % 3}")
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert seen
    assert all(row == {"media_id": "fixed", "number": 2} for row in seen)
