"""Which media lie in which file: known without reading the file, by later processes too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.storage import _media_index
from media_pipeline.storage._files import MERGE_COUNT, DataFile
from media_pipeline.storage._media_index import FOLDER, MediaIndex
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._tables import at, put, with_texts


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return with_texts(tmp_path)


@pytest.fixture
def columns_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose media have been read."""
    read: list[Path] = []
    real = _media_index._media_column

    def reading(path: Path) -> pa.Array:
        read.append(path)
        return real(path)

    monkeypatch.setattr(_media_index, "_media_column", reading)
    return read


def test_which_media_a_written_file_holds_is_known_without_reading_it(
    tables: Tables, tmp_path: Path, columns_read: list[Path]
) -> None:
    for name in ("a", "b", "c"):
        put(tables, [name])
    put(tables, ["b"], "new")
    put(at(tmp_path), ["c"], "by another process")
    assert columns_read == []
    assert tables.read("ocr")["text"].to_pylist() == ["x", "new", "by another process"]


@pytest.mark.parametrize("harm", ["gone", "empty", "cut off", "zeros", "another's", "unreadable"])
def test_what_is_kept_of_a_file_is_made_anew_where_it_is_not_whole(
    tables: Tables, tmp_path: Path, columns_read: list[Path], harm: str
) -> None:
    put(tables, ["a", "b"])
    put(tables, ["c"])
    folder = tmp_path / "tables" / "ocr" / FOLDER
    for path in folder.iterdir():
        content = path.read_bytes()
        path.unlink()
        if harm == "unreadable":
            path.mkdir()
        elif harm != "gone":
            harmed = {"empty": b"", "cut off": content[:-1], "zeros": bytes(len(content)), "another's": b"x" + content}
            path.write_bytes(harmed[harm])
    again = at(tmp_path)
    put(again, ["b"], "new")
    assert again.read("ocr", ["a", "b", "c"])["text"].to_pylist() == ["x", "new", "x"]
    assert len(columns_read) == 2
    put(at(tmp_path), ["b"], "newest")
    assert len(columns_read) == (2 if harm != "unreadable" else 3), "what could be mended was"


def test_what_is_kept_of_files_goes_with_them(tables: Tables, tmp_path: Path) -> None:
    for text in ("old", "new"):
        put(tables, ["a", "b"], text)
    folder = tmp_path / "tables" / "ocr" / FOLDER
    assert len(list(folder.iterdir())) == 2
    removed = tables.vacuum("ocr", retention_hours=0)
    assert [Path(path).parent.name for path in removed] == ["ocr"]
    assert [path.name for path in folder.iterdir()] == [Path(path).name for path in tables.files("ocr")]
    assert tables.read("ocr", ["a"])["text"].to_pylist() == ["new"]


def test_a_table_that_can_only_be_read_is_read(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tables, ["a"])
    shutil.rmtree(tmp_path / "tables" / "ocr" / FOLDER)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert at(tmp_path).read("ocr", ["a"]).num_rows == 1


def test_files_are_found_by_their_media_however_many_there_were(tmp_path: Path) -> None:
    """Against looking into each: media in several files at once, files that come and go, in no order."""
    rng = np.random.default_rng(0)
    index, held = MediaIndex(tmp_path), dict[str, set[str]]()
    for number in range(300):
        media = {f"m{n}" for n in rng.integers(0, 2_000, rng.integers(0, 40))}
        name = f"{number:04d}"
        index.add(name, pa.array(sorted(media) * 2, pa.string()))
        held[name] = media
        if number % 3:
            del held[str(rng.choice(list(held)))]
        current = [DataFile(name, 1) for name in held]
        asked = [f"m{n}" for n in rng.integers(0, 2_200, 3)]
        found = {file.name for file in index.holding(current, asked)}
        assert found == {name for name, media in held.items() if media & set(asked)}
    assert index.holding([DataFile(name, 1) for name in held], []) == []
    assert len(index.holding([DataFile(name, 1) for name in held], None)) == len(held)
    assert len(index._known) < 3 * len(held) + MERGE_COUNT, "what is gone is forgotten"
