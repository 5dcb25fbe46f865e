"""JSON, CSV and Parquet: every view, the types it has, and cells that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from media_pipeline.execution.pipeline import table_schemas
from media_pipeline.results.exports import tabular
from media_pipeline.results.identities import PERSONS, Identities
from media_pipeline_tests._export_home import ExportHome, box, export_home, frame, key, media_id, segment

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

FORMULAS = ["=1+1", "+49 30 123", "-5 °C", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", '=HYPERLINK("http://x";"y")']
HARMLESS = ["2 - 1", "a=b", 'say "hi", twice', "line\r\nbreak", "", "ü 😀"]
VECTOR = [0.1, *[0.0] * 126, float("nan")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportHome]:
    home = export_home(tmp_path_factory.mktemp("tables") / "home")
    word = {"word": "da", "start_s": 0.5, "end_s": float("nan"), "score": 0.1}
    home.add(
        "a",
        frames=[frame(1), frame(0)],
        ocr=[box(0, 0, 9, 9, text=text, line_index=n) for n, text in enumerate([*FORMULAS, *HARMLESS])],
        faces=[box(1, 2, 3, 4, track_index=0, embedding=VECTOR, score=float("inf"))],
        transcript=[segment(0.5, 1.5, "da", words=[word], segment_index=0)],
        speakers=[{"turn_index": 0, "start_s": 0.0, "end_s": 2.0, "speaker": "S1"}],
    )
    home.add("b", "image", ocr=[box(0, 0, 9, 9, text="other", line_index=0)])
    track = {"track_index": 0, "decided_by": "auto", "model": "m", "embedding": [1.0, 0.0]}
    home.put("face_persons", {"a": [track | {"person_id": "P-1"}], "b": [track | {"person_id": "P-2"}]})
    _name_person(home, "P-1", "Anna")
    yield home
    home.app.close()


def _name_person(home: ExportHome, person_id: str, name: str) -> None:
    with closing(Identities(PERSONS, home.pipeline.tables, home.pipeline.layout)) as identities:
        identities.name(person_id, name)


def document(home: ExportHome, *args: str) -> Any:
    result = home.export(key("a"), "--format", "json", *args)
    assert result.return_value == 0, result.exception
    return json.loads(result.stdout, parse_constant=pytest.fail)


# -- JSON --------------------------------------------------------------------------------------------------------


def test_json_has_every_view_of_a_medium(home: ExportHome) -> None:
    found = document(home)
    assert list(found) == ["format", "media_id", "media", "results"]
    assert found["format"] == "media-pipeline/1"
    assert found["media_id"] == media_id("a")
    assert found["media"]["partition_key"] == key("a")
    assert found["media"]["added_at"] == "2026-01-02T03:04:05.600000Z"
    expected = set(table_schemas()) - {"media"} | {"nsfw_media", "sources"}
    assert expected <= set(found["results"])
    assert found["results"]["scenes"] == []
    assert [row["analyzer"] for row in found["results"]["analyses"]] == sorted(
        ["frames", "ocr", "faces", "transcript", "speakers"]
    )


def test_json_rows_are_in_order_and_without_what_all_share(home: ExportHome) -> None:
    results = document(home)["results"]
    assert [row["frame_index"] for row in results["frames"]] == [0, 1]
    assert [row["text"] for row in results["ocr"]] == [*FORMULAS, *HARMLESS]
    assert not any("media_id" in row for rows in results.values() for row in rows)


def test_json_names_persons(home: ExportHome) -> None:
    (face,) = document(home)["results"]["faces"]
    assert (face["person_id"], face["person_name"]) == ("P-1", "Anna")


def test_json_values_are_plain(home: ExportHome) -> None:
    results = document(home)["results"]
    assert results["transcript"][0]["words"] == [{"word": "da", "start_s": 0.5, "end_s": None, "score": 0.1}]
    assert results["faces"][0]["score"] is None
    assert "embedding" not in results["faces"][0]


def test_json_with_embeddings(home: ExportHome) -> None:
    vector = document(home, "--embeddings")["results"]["faces"][0]["embedding"]
    assert vector == [0.1, *[0.0] * 126, None]


def test_json_of_chosen_views(home: ExportHome) -> None:
    assert list(document(home, "--tables", "ocr, frames")["results"]) == ["frames", "ocr"]


def test_each_row_has_a_line_of_its_own(home: ExportHome) -> None:
    lines = home.export(key("a"), "--format", "json", "--tables", "ocr").stdout.splitlines()
    assert len(lines) == 1 + 1 + 1 + len(FORMULAS + HARMLESS) + 1


def test_all_media_on_standard_output_are_a_line_each(home: ExportHome) -> None:
    result = home.export("--all", "--format", "json", "-o", "-")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {item["media_id"] for item in found} == {media_id("a"), media_id("b")}
    ocr = {item["media_id"]: len(item["results"]["ocr"]) for item in found}
    assert ocr == {media_id("a"): len(FORMULAS + HARMLESS), media_id("b"): 1}


# -- CSV ---------------------------------------------------------------------------------------------------------


def cells(home: ExportHome, view: str, *args: str) -> list[dict[str, str]]:
    result = home.export(key("a"), "--format", "csv", "--tables", view, *args)
    assert result.return_value == 0, result.exception
    text = result.stdout_bytes.decode()
    assert text.count("\r\n") >= 1
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_no_cell_is_a_formula(home: ExportHome) -> None:
    assert [row["text"] for row in cells(home, "ocr")] == [*(f"'{text}" for text in FORMULAS), *HARMLESS]


def test_cells_can_be_left_as_they_are(home: ExportHome) -> None:
    assert [row["text"] for row in cells(home, "ocr", "--no-defuse")] == [*FORMULAS, *HARMLESS]


def test_numbers_times_and_lists_in_cells(home: ExportHome) -> None:
    (said,) = cells(home, "transcript")
    assert (said["start_s"], said["score"], said["draft"]) == ("0.5", "", "")
    assert json.loads(said["words"]) == [{"word": "da", "start_s": 0.5, "end_s": None, "score": 0.1}]
    (medium,) = cells(home, "media")
    assert medium["added_at"] == "2026-01-02T03:04:05.600000Z"
    (face,) = cells(home, "faces")
    assert (face["score"], face["x1"]) == ("", "1")


def test_null_and_empty_text_differ(home: ExportHome) -> None:
    text = home.export(key("a"), "--format", "csv", "--tables", "ocr").stdout
    assert ',"",0.9,' in text
    assert home.export(key("a"), "--format", "csv", "--tables", "faces").stdout.rstrip().endswith(',,"P-1"')


def test_a_file_per_view(home: ExportHome, tmp_path: Path) -> None:
    assert home.export("--all", "--format", "csv", "-o", tmp_path).return_value == 0
    names = {path.stem for path in tmp_path.iterdir()}
    assert set(table_schemas()) | {"persons", "voices", "nsfw_media", "sources"} <= names
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv"}
    with (tmp_path / "persons.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["person_id"], row["name"]) for row in csv.DictReader(file)] == [("P-1", "Anna"), ("P-2", "")]


def test_of_chosen_media_only_their_persons(home: ExportHome) -> None:
    assert [row["person_id"] for row in cells(home, "persons")] == ["P-1"]


# -- Parquet -----------------------------------------------------------------------------------------------------


def test_parquet_has_the_types_of_the_views(home: ExportHome, tmp_path: Path) -> None:
    result = home.export("--all", "--format", "parquet", "--embeddings", "-o", tmp_path)
    assert result.return_value == 0, result.exception
    for name in ("ocr", "media", "transcript", "faces"):
        schema, declared = pq.read_schema(tmp_path / f"{name}.parquet"), table_schemas()[name]
        for field in declared:
            assert schema.field(field.name).type == field.type, (name, field.name)
    assert pq.read_schema(tmp_path / "faces.parquet").field("embedding").type == pa.list_(pa.float32(), 128)
    rows = pq.read_table(tmp_path / "ocr.parquet", partitioning=None)
    assert sorted(rows["text"].to_pylist()) == sorted([*FORMULAS, *HARMLESS, "other"])


def test_other_programs_read_the_parquet_files(home: ExportHome, tmp_path: Path) -> None:
    home.export("--all", "--format", "parquet", "-o", tmp_path)
    sql = f"SELECT count(*) FROM '{tmp_path}/ocr.parquet' JOIN '{tmp_path}/media.parquet' USING (media_id)"
    assert duckdb.sql(sql).fetchall() == [(len(FORMULAS + HARMLESS) + 1,)]


def test_row_groups_are_filled_across_portions(
    home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_pipeline.results.exports._library.PORTION_MEDIA", 1)
    monkeypatch.setattr(tabular, "ROW_GROUP_ROWS", 10)
    home.export("--all", "--format", "parquet", "--tables", "ocr,analyses", "-o", tmp_path)
    assert pq.read_metadata(tmp_path / "ocr.parquet").num_rows == len(FORMULAS + HARMLESS) + 1
    assert pq.read_metadata(tmp_path / "analyses.parquet").num_row_groups == 1


def test_rows_of_media_that_were_never_decoded_are_exported(home: ExportHome, tmp_path: Path) -> None:
    """They are in the ledger only, and belong to no medium of view `media`: before, between and after the others."""
    ids = ["0" * 64, "f" * 64]
    entry = {"analyzer": "media", "status": "failed", "fingerprint": "f", "reason": "no picture"}
    home.replace("analyses", [{**entry, "media_id": i} for i in ids])
    try:
        home.export("--all", "--format", "parquet", "--tables", "analyses", "-o", tmp_path)
        exported = pq.read_table(tmp_path / "analyses.parquet", partitioning=None)
        assert set(ids) <= set(exported["media_id"].to_pylist())
    finally:
        home.replace("analyses", [], ids)
