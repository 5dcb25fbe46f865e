"""A tick over a folder of known files: it ends soon, the next one goes on, and what was refused stays refused."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from media_pipeline.config import load_settings
from media_pipeline.media import intake as intake_module
from media_pipeline.media.intake import Intake
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sightings import ERASED, REMOVED
from media_pipeline.storage.sources import Sources
from media_pipeline_tests._intake import Home, age, names


def test_looking_ends_soon_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "CHUNK", 4)
    layout = Layout(tmp_path / "home")
    layout.create()
    settings = load_settings(home=layout.home, settle_s=0, min_free_bytes=1)
    for number in range(20):
        (layout.inbox / f"{number:02}.jpg").write_bytes(b"picture %d" % number)
    intake = Intake(layout, Sources(layout.sources), settings)

    def tick() -> tuple[int, bool]:
        report = intake.tick([layout.inbox], limit_files=100, limit_seconds=60, look_seconds=0)
        return len(report.new), report.complete

    assert tick() == (20, True), "what is new is read in one go"
    (layout.inbox / "99.jpg").write_bytes(b"the last one")
    ticks = [tick() for _ in range(6)]
    assert [new for new, _ in ticks].count(1) == 1
    assert ticks[0] == (0, False)
    assert any(complete for _, complete in ticks)


# -- what was refused ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[ERASED, f"{REMOVED}2026-01-02; analyze it to take it anew"])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home with two media, and a third whose file an erasure or retention left where it is."""
    home = Home(tmp_path)
    for name in ("left.jpg", "a.jpg", "b.jpg"):
        home.drop(f"folder/{name}", name.encode())
    ids = {medium.name: medium.media_id for medium in home.tick().new}
    home.sources.let_go([ids["left.jpg"]], request.param)
    return home


def _days_pass(home: Home, *, another_disk: bool = False) -> None:
    """So long that what is not seen is forgotten; `another_disk`: the stamps are of a disk with another number."""
    with closing(sqlite3.connect(home.layout.sources)) as db, db:
        db.execute("UPDATE files SET last_seen = last_seen - 90000000000")
        if another_disk:
            db.execute("UPDATE files SET stamp = stamp || '999'")


def _known_paths(home: Home) -> list[str]:
    return sorted(home.sources.table()["name"].to_pylist())


def test_a_day_without_a_tick_brings_nothing_back(left: Home) -> None:
    os.mkfifo(left.inbox / "pipe.jpg")
    assert len(left.tick().refused) == 1
    for _ in range(2):
        _days_pass(left)
        assert [(report.new, report.refused) for report in (left.tick(), left.tick())] == [([], [])] * 2


def test_a_pause_in_the_middle_of_a_look_brings_nothing_back(left: Home) -> None:
    left.drop("z.jpg", b"z")
    left.drop("folder/c.jpg", b"c")
    first = left.tick(limit_files=1)
    assert (names(first), first.complete) == (["c.jpg"], False)
    _days_pass(left)
    assert [names(left.tick()) for _ in range(2)] == [["z.jpg"], []]


def test_a_folder_that_was_not_mounted_for_days_brings_nothing_back(left: Home, tmp_path: Path) -> None:
    folder, away = left.inbox / "folder", tmp_path / "away"
    left.drop("other.jpg", b"other")
    left.tick()
    _days_pass(left, another_disk=True)
    folder.rename(away)
    assert names(left.tick()) == []  # the folder is there, and on another disk
    shutil.copytree(away, folder)  # with the times of the files
    (folder / "left.jpg").chmod(0o640)
    assert [names(left.tick()) for _ in range(2)] == [[], []]
    _days_pass(left)
    shutil.rmtree(left.inbox)
    left.inbox.mkdir()
    assert names(left.tick()) == []  # an empty folder may be where the disk is mounted
    shutil.copytree(away, folder)
    assert [names(left.tick()) for _ in range(2)] == [[], []]


def test_a_disk_that_does_not_answer_brings_nothing_back(left: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lstat = str(left.inbox / "folder" / "left.jpg"), os.lstat

    def failing(asked: str) -> os.stat_result:
        if asked == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lstat(asked)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", failing)
        assert names(left.tick()) == []
        assert [reason.split(";")[0].split(": ")[-1] for _, reason in left.take(left.inbox).refused] == [
            os.strerror(errno.EIO)
        ]
    assert [names(left.tick()) for _ in range(2)] == [[], []]


def test_another_content_and_a_file_that_is_named_are_taken(left: Home) -> None:
    path = left.inbox / "folder" / "left.jpg"
    assert names(left.take(path)) == ["left.jpg"]
    [medium] = [medium for medium in left.sources.all_media() if medium.name == "left.jpg"]
    left.sources.let_go([medium.media_id], ERASED)
    path.write_bytes(b"something else")
    age(path)
    assert names(left.tick()) == ["left.jpg"]


def test_a_file_that_was_removed_is_forgotten_for_good(left: Home) -> None:
    shutil.rmtree(left.inbox / "folder")
    left.drop("other.jpg", b"other")
    _days_pass(left)
    left.tick()
    assert "left.jpg" not in _known_paths(left)


def test_nothing_but_place_size_and_time_is_kept_of_it(left: Home) -> None:
    path = left.inbox / "folder" / "left.jpg"
    path.chmod(0o640)
    left.tick()
    with closing(sqlite3.connect(left.layout.sources)) as db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM files WHERE state = 'refused'").fetchone())
    stat = path.stat()
    kept = (os.fsencode(path), stat.st_size, stat.st_mtime_ns // 1000, None)
    assert (row["path"], row["bytes"], row["modified_at"], row["media_id"]) == kept
    assert row["stamp"].split(".")[:3] == [str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ctime_ns)]
