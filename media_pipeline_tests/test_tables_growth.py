"""That writing to a large table costs what writing to a small one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from media_pipeline.storage import tables as tables_module
from media_pipeline.storage._files import MERGED_BYTES, DataFile, neighbours, size_class
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._tables import at, put, with_texts


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return with_texts(tmp_path)


def files(*sizes: int) -> list[DataFile]:
    return [DataFile(f"{number:012d}-x.parquet", size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("size", [MERGED_BYTES // 300, MERGED_BYTES // 17, MERGED_BYTES // 5])
def test_what_was_merged_is_not_merged_again(size: int) -> None:
    """Also if it becomes smaller by it: that is the last time its rows are rewritten for being too small."""
    assert size_class(files(size)[0]) is not None
    groups = neighbours(files(*[size] * 1000))
    assert sum(map(len, groups)) == 1000
    for group in groups[:-1]:
        merged = sum(file.size for file in group)
        assert len(group) >= 4
        assert merged < 1.5 * MERGED_BYTES  # in memory at once
        assert size_class(files(merged // 2)[0]) is None


def test_merging_leaves_single_files_alone() -> None:
    assert neighbours([]) == []
    assert neighbours(files(100)) == []
    assert neighbours(files(MERGED_BYTES, MERGED_BYTES, 5)) == []
    assert [len(group) for group in neighbours(files(1, MERGED_BYTES, 5, 6))] == [2, 2]


def test_one_writer_reads_the_log_once(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def opening(uri: str) -> DeltaTable:
        opened.append(uri)
        return DeltaTable(uri)

    monkeypatch.setattr(tables_module, "DeltaTable", opening)
    monkeypatch.setattr(tables_module, "MERGE_COUNT", 4)
    for number in range(10):
        put(tables, [f"m{number}"])
        assert tables.read("ocr", [f"m{number}"]).num_rows == 1
    assert len(opened) <= 1
    assert len(tables.files("ocr")) < 4
    assert tables.read("ocr").num_rows == 10


def test_a_writer_goes_on_from_what_another_has_written(tmp_path: Path, tables: Tables) -> None:
    other = at(tmp_path)
    for number in range(5):
        put(tables, ["a", f"ours-{number}"], f"ours-{number}")
        put(other, ["a", f"theirs-{number}"], f"theirs-{number}")
    found = tables.read("ocr").to_pylist()
    assert len(found) == 11
    assert [row["text"] for row in found if row["media_id"] == "a"] == ["theirs-4"]
    other.purge("ocr")
    put(tables, ["a"], "after")
    assert [row["text"] for row in other.read("ocr", ["a"]).to_pylist()] == ["after"]


def test_threads_of_one_writer_pass_no_version_unseen(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the lock: what one has read is never committed against what another has made of it."""

    @contextmanager
    def unlocked(_: str) -> Iterator[None]:
        yield

    monkeypatch.setattr(tables, "_locked", unlocked)
    failures: list[BaseException] = []
    ready = threading.Barrier(3)

    def work(index: int) -> None:
        try:
            ready.wait()
            for step in range(4):
                put(tables, ["shared", f"{index}.{step}"], f"{index}.{step}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    found = tables.read("ocr")["media_id"].to_pylist()
    assert sorted(found) == sorted(["shared", *(f"{index}.{step}" for index in range(3) for step in range(4))])


@pytest.mark.slow
def test_the_log_does_not_grow_for_ever(tables: Tables, tmp_path: Path) -> None:
    log = tmp_path / "tables" / "ocr" / "_delta_log"
    DeltaTable(log.parent).alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    for number in range(50):
        put(tables, ["a"], str(number))
    assert len(list(log.glob("*.json"))) < 45
    assert tables.read("ocr")["text"].to_pylist() == ["49"]


def test_numbers_that_never_repeat_get_no_dictionary(tables: Tables) -> None:
    word = pa.struct([("word", pa.string()), ("start_s", pa.float64())])
    count = 2000
    vectors = np.random.default_rng(0).standard_normal(count * 8, np.float32)
    rows = pa.table(
        {
            "media_id": pa.array(["a"] * count),
            "line": pa.array([1] * count),
            "score": pa.array(vectors[:count]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8),
            "words": pa.array([[{"word": "Rechnung", "start_s": 1.0}]] * count, pa.list_(word)),
        }
    )
    tables.ensure("faces", rows.schema)
    tables.replace("faces", rows, ["a"])
    metadata = pq.read_metadata(tables.files("faces")[0])
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    coded = {column.path_in_schema for column in columns if column.has_dictionary_page}
    assert coded == {"media_id", "line", "words.list.element.word"}
    assert tables.read("faces").equals(rows.cast(tables.schema("faces")))
