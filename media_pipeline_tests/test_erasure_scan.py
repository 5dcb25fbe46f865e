"""The proof of an erasure must be able to fail: every kind of leftover is planted and must be found."""

from __future__ import annotations

import base64
import io
import json
import random
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from media_pipeline.results import _byte_scan
from media_pipeline.results._byte_scan import Finder, Needle, scan
from media_pipeline.results._erasure_journal import Medium
from media_pipeline.results._erasure_needles import of_media
from media_pipeline.storage import contents
from media_pipeline.storage.sqlite import compact
from media_pipeline.storage.tables import Tables

MEDIA_ID = sha256(b"the medium").hexdigest()
TEXT = "Rechnung 4711 über den Vertrag"
VECTOR = np.random.default_rng(3).normal(size=128).astype(np.float32)
NEEDLES = [
    Needle("id", MEDIA_ID[:12].encode()),
    Needle("id", bytes.fromhex(MEDIA_ID)[:16]),
    Needle("text", TEXT.encode()),
    Needle("text", json.dumps(TEXT)[1:-1].encode()),
    Needle("embedding", VECTOR[:8].tobytes()),
    Needle("embedding", VECTOR[:8].astype(np.float16).tobytes()),
]
ORIGINAL = random.Random(1).randbytes(50_000)
COPIES = {len(ORIGINAL): [sha256(ORIGINAL).hexdigest()]}


def _parquet(folder: Path) -> None:
    rows = {"media_id": [MEDIA_ID] * 50, "text": [TEXT] * 50, "embedding": [VECTOR] * 50}
    schema = pa.schema([("media_id", pa.string()), ("text", pa.string()), ("embedding", pa.list_(pa.float32()))])
    pq.write_table(pa.table(rows, schema=schema), folder / "left.parquet", compression="zstd", write_statistics=False)


def _arrow(folder: Path) -> None:
    table = pa.table({"text": [TEXT]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(folder / "left.arrow", table.schema, options=options) as writer:
        writer.write_table(table)


def _sqlite(folder: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    with closing(sqlite3.connect(folder / "left.sqlite", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        change(db)


def _deleted_row(folder: Path) -> None:
    def change(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA secure_delete = OFF")  # some builds of SQLite have it on
        db.executemany("INSERT INTO t (x) VALUES (?)", [(MEDIA_ID,), ("other",)])
        db.execute("DELETE FROM t WHERE id = 1")

    _sqlite(folder, change)


def _cut_by_a_page(folder: Path) -> None:
    # Long values are cut into pages of 4 KB: at some of these offsets the text lies on both sides of a cut.
    def change(db: sqlite3.Connection) -> None:
        db.executemany("INSERT INTO t (x) VALUES (?)", [("x" * (8190 - 13 * n) + TEXT + "y" * 5000,) for n in range(9)])

    _sqlite(folder, change)


def _packed_blob(folder: Path) -> None:
    _sqlite(folder, lambda db: db.execute("INSERT INTO t (x) VALUES (?)", (zlib.compress(TEXT.encode()),)))


def _duckdb(folder: Path) -> None:
    with duckdb.connect(folder / "left.duckdb") as db:
        db.execute("CREATE TABLE t AS SELECT ? || range AS x FROM range(3000)", [TEXT])


def _log_of_a_table(folder: Path) -> None:
    """Rows deleted as usual: files and statistics of earlier versions are still there."""
    tables = _table(folder)
    tables.delete("ocr", [MEDIA_ID])


def _table(folder: Path) -> Tables:
    tables = Tables(folder / "tables", folder / "locks")
    schema = pa.schema([("media_id", pa.string()), ("text", pa.string())])
    tables.ensure("ocr", schema)
    for media_id in (MEDIA_ID, "b" * 64, "c" * 64):
        tables.replace("ocr", pa.table({"media_id": [media_id], "text": [TEXT]}), [media_id])
    return tables


LEFTOVERS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a text in a log file": (lambda f: (f / "serve.log").write_text(f"could not read {TEXT}"), {"text"}),
    "JSON that spells umlauts out": (lambda f: (f / "a.json").write_text(json.dumps([TEXT])), {"text"}),
    "the id as bytes": (lambda f: (f / "ids.bin").write_bytes(b"x" + bytes.fromhex(MEDIA_ID)), {"id"}),
    "the id in a file's name": (lambda f: (f / MEDIA_ID).write_bytes(b""), {"id"}),
    "the id in a folder's name": (lambda f: ((f / MEDIA_ID).mkdir(), (f / MEDIA_ID / "x").touch()), {"id"}),
    "a vector in an index": (lambda f: (f / "text.faiss").write_bytes(b"h" * 33 + VECTOR.tobytes()), {"embedding"}),
    "a vector of half floats": (lambda f: (f / "i").write_bytes(VECTOR.astype(np.float16).tobytes()), {"embedding"}),
    "a copy of the original": (lambda f: (f / "copy.bin").write_bytes(ORIGINAL), {"copy"}),
    "a Parquet file": (_parquet, {"id", "text", "embedding"}),
    "a packed Arrow file": (_arrow, {"text"}),
    "a deleted row of SQLite": (_deleted_row, {"id"}),
    "a value cut by a page": (_cut_by_a_page, {"text"}),
    "a packed blob": (_packed_blob, {"text"}),
    "a DuckDB file": (_duckdb, {"text"}),
    "the history of a table": (_log_of_a_table, {"id", "text"}),
}


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_every_leftover_is_found(leftover: str, tmp_path: Path) -> None:
    (tmp_path / "innocent").write_bytes(random.Random(2).randbytes(100_000))
    assert scan(tmp_path, NEEDLES, copies=COPIES).hits == ()
    plant, kinds = LEFTOVERS[leftover]
    plant(tmp_path)
    assert kinds <= {hit.kind for hit in scan(tmp_path, NEEDLES, copies=COPIES).hits}


def test_what_is_purged_is_not_found(tmp_path: Path) -> None:
    tables = _table(tmp_path)
    tables.delete("ocr", [MEDIA_ID])
    assert tables.purge("ocr")
    _deleted_row(tmp_path)
    compact(tmp_path / "left.sqlite")
    assert scan(tmp_path, NEEDLES[:2]).hits == ()
    assert tables.read("ocr")["media_id"].to_pylist() == ["b" * 64, "c" * 64]
    tables.replace("ocr", pa.table({"media_id": ["d"], "text": ["x"]}), ["d"])
    assert tables.read("ocr").num_rows == 3, "a purged table goes on being written to"


def test_any_number_of_strings_is_found_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contents, "BLOCK_BYTES", 1000)
    dice = random.Random(5)
    needles = [Needle("text", dice.randbytes(dice.randint(8, 60))) for _ in range(300)]
    body = bytearray(dice.randbytes(20_000))
    for n, needle in enumerate(needles[:150]):  # every one across or near the border of a block
        at = 130 * n + n % 7
        body[at : at + len(needle.value)] = needle.value
    (tmp_path / "file").write_bytes(body)
    expected = sum(bytes(body).count(needle.value) for needle in needles)
    assert expected >= 140
    assert scan(tmp_path, needles).count == expected


def test_strings_that_begin_alike_are_told_apart() -> None:
    short, longer, other = (Needle("text", text) for text in (b"beginning", b"beginning of it", b"beginning or end"))
    assert Finder([short, longer, other]).find(b"..beginning of it") == {short: 1, longer: 1}
    assert Finder([]).find(b"anything at all") == {}
    with pytest.raises(ValueError, match="too few"):
        Needle("text", b"seven77")


def test_what_others_own_is_a_mention_and_what_is_skipped_is_nothing(tmp_path: Path) -> None:
    for folder in ("originals", "originals/.incoming", "cache", "erasures"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(TEXT)
    (tmp_path / "cache" / "x").write_bytes(ORIGINAL)
    report = scan(
        tmp_path,
        NEEDLES,
        copies=COPIES,
        derived=[tmp_path / "cache"],
        theirs=[tmp_path / "originals"],
        skip=[tmp_path / "erasures"],
        elsewhere=[("events", [TEXT.encode(), b"nothing"])],
    )
    assert [(hit.where, hit.kind) for hit in report.hits] == [("events", "text"), ("originals/.incoming/x", "text")]
    assert [hit.where for hit in report.mentions] == ["originals/x"]


def test_a_damaged_file_is_looked_at_as_it_lies_there(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1" + TEXT.encode())
    report = scan(tmp_path, NEEDLES)
    assert report.unreadable == ("torn.parquet",)
    assert report.count == 1


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a").write_text(TEXT)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "originals").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "home")
    assert [(hit.where, hit.count) for hit in scan(tmp_path / "home", NEEDLES).hits] == [("originals/a", 1)]


def test_what_cannot_be_read_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("secret")

    def refuse(path: Path, overlap: int) -> Iterator[bytes]:
        raise PermissionError(13, "Permission denied", str(path))  # root may read everything

    monkeypatch.setattr(_byte_scan, "raw", refuse)
    assert [(hit.where, hit.kind) for hit in scan(tmp_path, NEEDLES).hits] == [("a", "unread")]


def _thumbnail(image: Image.Image) -> bytes:
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=60)
    return jpeg.getvalue()


def test_flat_areas_which_all_pictures_have_are_no_piece_of_one() -> None:
    """In the coded data of a flat area the same few bytes repeat, whatever the picture is of."""
    medium = Medium(MEDIA_ID, "a-video~0123456789")
    sky = Image.new("RGB", (160, 90), (90, 140, 200))
    assert not [n for n in of_media([medium], {MEDIA_ID: _thumbnail(sky)}) if n.kind == "thumbnail"]
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)
    sky.paste(Image.fromarray(noise), (10, 55))
    picture = _thumbnail(sky)
    text, raw = (needle.value for needle in of_media([medium], {MEDIA_ID: picture}) if needle.kind == "thumbnail")
    assert raw in picture[len(picture) // 2 :] and text in base64.b64encode(picture)
    assert len(set(raw)) > 20
