"""What readers of a table see: the present version, without reading its log anew each time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from media_pipeline.storage import _files
from media_pipeline.storage._media_index import media_hashes
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._tables import SCHEMA, at


def put(tables: Tables, media_id: str, text: str) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", pa.table({"media_id": [media_id], "text": [text]}), [media_id])


def test_what_another_writes_is_seen_at_once(tmp_path: Path) -> None:
    writer, reader = at(tmp_path), at(tmp_path)
    for number in range(3):
        put(writer, "a", str(number))
        assert reader.read("ocr")["text"].to_pylist() == [str(number)]
        assert reader.version("ocr") == writer.version("ocr")
        assert reader.files("ocr") == writer.files("ocr")
    writer.purge("ocr")
    assert reader.read("ocr")["text"].to_pylist() == ["2"]


def test_a_table_that_came_to_lie_in_its_place_is_seen(tmp_path: Path) -> None:
    reader = at(tmp_path)
    put(reader, "a", "before")
    assert reader.read("ocr")["text"].to_pylist() == ["before"]
    put(at(tmp_path / "other"), "a", "restored")
    shutil.rmtree(tmp_path / "tables" / "ocr")
    shutil.copytree(tmp_path / "other" / "tables" / "ocr", tmp_path / "tables" / "ocr")
    assert reader.read("ocr")["text"].to_pylist() == ["restored"]


def test_the_log_is_read_once_per_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = at(tmp_path)
    put(tables, "a", "x")
    opened: list[str] = []

    def opening(uri: str) -> DeltaTable:
        opened.append(uri)
        return DeltaTable(uri)

    monkeypatch.setattr("media_pipeline.storage.tables.DeltaTable", opening)
    for _ in range(5):
        tables.read("ocr")
        tables.files("ocr")
    assert len(opened) <= 1
    put(tables, "b", "y")
    assert tables.read("ocr").num_rows == 2


def test_rows_with_vectors_lie_in_small_groups(tmp_path: Path) -> None:
    count = 3 * _files.VECTOR_GROUP_ROWS
    tables, ids = at(tmp_path), [f"m{n}" for n in range(count)]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 4, np.float32)), 4)
    for name, columns in (("faces", {"embedding": vectors}), ("ocr", {"text": pa.array(ids)})):
        rows = pa.table({"media_id": ids, **columns})
        tables.ensure(name, rows.schema)
        tables.replace(name, rows, ids)
    groups = {name: pq.ParquetFile(tables.files(name)[0]).num_row_groups for name in ("faces", "ocr")}
    assert groups == {"faces": 3, "ocr": 1}


def test_hashes_of_media_are_the_same_in_every_process() -> None:
    assert media_hashes(["a"]).tolist() == [3405396810240292928]
    assert len(media_hashes([])) == 0
    sha256 = "6a09e667f3bcc908" + 48 * "0"
    assert media_hashes([sha256, "a"]).tolist() == [0x6A09E667F3BCC908, 3405396810240292928]
    assert media_hashes(["f" * 64]).tolist() == [-1]
