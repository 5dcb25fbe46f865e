from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from media_pipeline.errors import DiskFull
from media_pipeline.storage import disk
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.sqlite import Database


def test_a_full_device_is_named_with_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match="free some space"),
        disk_full_explained(tmp_path),
        open("/dev/full", "wb") as sink,
    ):
        sink.write(b"x" * 100_000)


def test_the_text_that_delta_hands_on_is_understood(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), disk_full_explained(tmp_path):
        raise RuntimeError("Generic LocalFileSystem error: No space left on device (os error 28)")


def test_a_full_database_below_sqlalchemy_is_understood(tmp_path: Path) -> None:
    """Dagster's storage: its errors come wrapped."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'runs.db'}")
    with pytest.raises(DiskFull), disk_full_explained(tmp_path), engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
        connection.exec_driver_sql("CREATE TABLE t (x)")
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")


def test_our_own_full_database_is_understood(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite", "CREATE TABLE t (x);", version=1)
    with pytest.raises(DiskFull, match=r"x\.sqlite"), database.write() as db:
        db.execute("PRAGMA max_page_count = 3")
        db.execute("INSERT INTO t VALUES (zeroblob(1000000))")
    assert database.query("SELECT count(*) FROM t") == [(0,)]


def test_an_io_error_means_no_room_only_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    monkeypatch.setattr(disk, "_NEXT_TO_NOTHING_BYTES", 0)
    assert not disk.is_disk_full(error, tmp_path)
    monkeypatch.setattr(disk, "_NEXT_TO_NOTHING_BYTES", 1 << 62)
    assert disk.is_disk_full(error, tmp_path)


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="x"), disk_full_explained(tmp_path):
        raise KeyError("x")
