"""Backup and restore: what comes back, what is stored again, what is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from media_pipeline.errors import DiskFull, StorageConflict, UsageError
from media_pipeline.storage import _backup_cut, backup
from media_pipeline.storage._backup_manifest import FileEntry, Head, Snapshot, decode, encode
from media_pipeline.storage.layout import RESTORING, Layout
from media_pipeline_tests._backup_home import BackupHome, content


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pattern")
    BackupHome(folder / "home", folder / "backups").add("a", "b", "c")
    return folder / "home"


@pytest.fixture
def home(pattern: Path, tmp_path: Path) -> BackupHome:
    shutil.copytree(pattern, tmp_path / "home")
    return BackupHome(tmp_path / "home", tmp_path / "backups")


def test_everything_that_cannot_be_made_again_comes_back(home: BackupHome, tmp_path: Path) -> None:
    layout = home.layout
    content(layout.home / "keys" / "receipts.ed25519", b"secret", mode=0o600)
    (layout.home / "keys").chmod(0o700)
    content(layout.inbox / os.fsdecode(b"nicht \xff text.jpg"), b"waiting")
    content(layout.home / "rules" / "own.yaml", b"rules: []")
    content(layout.home / "of a later release" / "state", b"?")
    (layout.home / "empty").mkdir(mode=0o750)
    report = home.take()
    assert report.problems == {}
    new = home.restore(tmp_path / "new")
    for root in (layout.home, new):
        (root / "locks").mkdir(exist_ok=True)
    assert home.files(new) == home.files(layout.home)
    assert (new / "keys").stat().st_mode & 0o777 == 0o700
    assert (new / "empty").stat().st_mode & 0o777 == 0o750
    assert new.stat().st_mode & 0o777 == 0o700


def test_what_can_be_made_again_is_left_out_unless_asked_for(home: BackupHome, tmp_path: Path) -> None:
    layout = home.layout
    for path in ("cache/ab/abc/frames.arrow", "models/m.onnx", "indexes/text.faiss", "warehouse.duckdb"):
        content(layout.home / path, b"made")
    content(layout.home / "cache" / ".incoming" / "1-2" / "half", b"made")
    home.take()
    assert not {"cache", "models", "indexes", "warehouse.duckdb"} & set(home.tops(home.restore(tmp_path / "slim")))
    home.take(backup.Options(with_cache=True, with_models=True))
    whole = home.restore(tmp_path / "whole")
    assert (whole / "cache/ab/abc/frames.arrow").read_bytes() == (whole / "models/m.onnx").read_bytes() == b"made"
    assert not list((whole / "cache" / ".incoming").iterdir())
    assert not {"indexes", "warehouse.duckdb"} & set(home.tops(whole))


@pytest.mark.slow
def test_rows_and_ledger_of_a_restored_home_are_those_of_the_first(home: BackupHome, tmp_path: Path) -> None:
    home.add("a", "d")
    for name in ("ocr", "analyses"):
        home.tables.compact(name)  # writes a checkpoint: what came before it is not needed any more
    home.add("e")
    home.take()
    assert any(file.path == "tables/ocr/_delta_log/_last_checkpoint" for file in home.newest().files)
    assert home.rows(home.restore(tmp_path / "new")) == home.rows()
    home.add("later")
    assert home.rows(tmp_path / "new") != home.rows()


def test_only_what_changed_is_read_and_stored(home: BackupHome) -> None:
    home.take_in("big.jpg", b"x" * 100_000)
    first = home.take()
    again = home.take()
    assert again.new_bytes == again.new_objects == 0
    assert again.read_bytes < first.bytes - 100_000  # the databases are looked at
    home.add("d")
    more = home.take()
    assert 0 < more.new_bytes < 40_000
    assert more.files > again.files


def test_content_is_stored_once_however_often_it_lies_there(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    for number in range(3):
        content(home.layout.inbox / f"{number}.jpg", b"the same" * 1000)
    assert home.take().new_bytes == 8000
    assert (home.restore(tmp_path / "new") / "inbox" / "2.jpg").read_bytes() == b"the same" * 1000


def test_a_file_of_the_inbox_that_intake_has_hashed_is_not_read_again(home: BackupHome) -> None:
    original = home.take_in("photo.jpg", b"photo" * 10_000)
    report = home.take()
    copies = [file for file in home.newest().files if file.parts == (original,)]
    assert sorted(file.path.partition("/")[0] for file in copies) == ["inbox", "originals"]
    assert report.bytes - report.read_bytes == 50_000


@pytest.mark.slow
def test_a_database_is_consistent_and_its_unchanged_parts_are_shared(home: BackupHome, tmp_path: Path) -> None:
    path = home.layout.dagster / "history" / "runs" / "one.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE numbers (n INTEGER, filler BLOB)")
        database.execute("BEGIN")
        database.executemany("INSERT INTO numbers VALUES (?, randomblob(1000))", [(n,) for n in range(6_000)])
        database.execute("COMMIT")
        first = home.take()
        assert first.problems == {}
        database.execute("INSERT INTO numbers VALUES (?, 'x')", (6_000,))  # into the log only
        database.execute("BEGIN")
        database.execute("INSERT INTO numbers VALUES (99999, 'never')")  # not committed
        second = home.take()
        database.execute("ROLLBACK")
    assert second.new_bytes < first.new_bytes
    with closing(sqlite3.connect(home.restore(tmp_path / "new") / path.relative_to(home.layout.home))) as restored:
        assert restored.execute("SELECT count(*), max(n) FROM numbers").fetchone() == (6_001, 6_000)
    home.take()  # its log was written back when it was closed
    assert home.take().read_bytes < 1_000_000  # nobody wrote to it


def test_an_unreadable_or_foreign_thing_is_named_and_the_rest_is_saved(home: BackupHome, tmp_path: Path) -> None:
    content(home.layout.inbox / "good.jpg", b"good")
    (home.layout.inbox / "link.jpg").symlink_to("/etc/hostname")
    os.mkfifo(home.layout.inbox / "pipe")
    report = home.take()
    assert report.problems == dict.fromkeys(("inbox/link.jpg", "inbox/pipe"), "neither a file nor a folder")
    assert (home.restore(tmp_path / "new") / "inbox" / "good.jpg").exists()


def test_what_calls_itself_a_database_in_the_inbox_is_a_file_like_any_other(home: BackupHome, tmp_path: Path) -> None:
    foreign = {
        "trap.db": b"SQLite format 3\0 and then nonsense",
        "trap.db-wal": b"log",
        "song-journal": b"j",
        "song": b"",
    }
    for name, data in foreign.items():
        content(home.layout.inbox / name, data)
    assert home.take().problems == {}
    assert {path.name: path.read_bytes() for path in (home.restore(tmp_path / "new") / "inbox").iterdir()} == foreign


def test_a_file_that_is_being_written_is_named(home: BackupHome, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = content(home.layout.inbox / "upload.mp4", b"begin")
    store = backup.Repository.store

    def write_on(self: backup.Repository, source: int, *, likely: str | None = None) -> object:
        with upload.open("ab") as file:
            file.write(b"more")
        return store(self, source, likely=likely)

    monkeypatch.setattr(backup.Repository, "store", write_on)
    assert home.take().problems == {"inbox/upload.mp4": "somebody was writing to it"}


def test_originals_on_another_disk_are_followed(home: BackupHome, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    home.layout.originals.rename(elsewhere)
    home.layout.originals.symlink_to(elsewhere)
    content(elsewhere / "aa" / "one", b"one")
    home.take()
    assert (home.restore(tmp_path / "new") / "originals" / "aa" / "one").read_bytes() == b"one"


def test_media_linked_from_outside_are_counted(home: BackupHome) -> None:
    home.take_in("linked.jpg", b"linked", linked=True)
    assert home.take().linked_outside == 1


def test_what_rots_in_the_home_is_said_and_the_good_content_kept(home: BackupHome, tmp_path: Path) -> None:
    media_id = home.take_in("photo.jpg", b"photo")
    home.take()
    original = home.layout.originals / media_id[:2] / media_id
    home.rot(original, b"rotten")
    assert home.take().problems == {}  # nothing to be seen from outside: size and times are the same
    report = home.take(backup.Options(verify=True))
    assert list(report.problems) == [f"originals/{media_id[:2]}/{media_id}"]
    assert (home.restore(tmp_path / "new") / "originals" / media_id[:2] / media_id).read_bytes() == b"photo"


def test_a_repository_is_only_made_where_nothing_else_is(home: BackupHome, tmp_path: Path) -> None:
    content(tmp_path / "full" / "diary.txt", b"mine")
    for root in (tmp_path / "full", home.layout.home / "backups", tmp_path, Path("/proc/backups")):
        with pytest.raises(UsageError):
            backup.create(home.layout, root)
    with pytest.raises(UsageError, match="no home"):
        backup.create(Layout(tmp_path / "nothing"), tmp_path / "new")
    with pytest.raises(UsageError, match="no backup"):
        backup.Repository.open(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["diary.txt"]


def test_one_at_a_time(home: BackupHome) -> None:
    with home.repository.locked(), pytest.raises(StorageConflict, match="another backup"):
        backup.back_up(home.layout, backup.Repository.open(home.root))


def test_a_full_disk_leaves_what_was_there_and_the_next_one_goes_on(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    content(home.layout.originals / "aa" / "more", b"more")
    home.repository.min_free_bytes = 1 << 60
    with pytest.raises(DiskFull, match="next backup goes on"):
        home.take()
    home.repository.min_free_bytes = 0
    assert len(home.repository.snapshots()) == 1
    home.restore(tmp_path / "old")
    home.take()
    assert (home.restore(tmp_path / "new") / "originals" / "aa" / "more").exists()


def test_nobody_else_may_read_it(home: BackupHome) -> None:
    before = os.umask(0o000)
    try:
        home.take()
    finally:
        os.umask(before)
    open_to_others = [path for path in home.root.rglob("*") if path.stat().st_mode & 0o077]
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert open_to_others == []


def test_restore_never_overwrites(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    content(tmp_path / "full" / "diary.txt", b"mine")
    for target in (tmp_path / "full", home.layout.home):
        with pytest.raises(UsageError, match="not empty"):
            home.restore(target)
    with pytest.raises(UsageError, match="begin with"):
        home.repository.resolve("1999")


def test_an_interrupted_restore_is_no_home_and_goes_on(home: BackupHome, tmp_path: Path) -> None:
    content(home.layout.originals / "aa" / "last", b"last")
    home.take()
    new = tmp_path / "new"

    def stop(path: str, _done: int, _total: int) -> None:
        if path.endswith(".parquet"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup.restore(home.repository, home.repository.resolve(None), new, stop)
    written = {path: path.stat().st_ino for path in new.rglob("*.parquet")}
    assert len(written) == 1
    with pytest.raises(UsageError, match="being restored"):
        Layout(new).create()
    home.add("other")
    home.take()
    with pytest.raises(UsageError, match="another snapshot"):
        home.restore(new)
    home.restore(new, home.repository.snapshots()[0])
    assert not (new / RESTORING).exists()
    assert {path: path.stat().st_ino for path in written} == written  # not written twice
    assert (new / "originals" / "aa" / "last").exists()


def test_restoring_tells_of_erasures_that_came_later(home: BackupHome, tmp_path: Path) -> None:
    content(home.layout.home / "receipts" / "1.json", b"{}")
    home.take()
    content(home.layout.home / "receipts" / "2.json", b"{}")
    home.take()
    first, second = home.repository.snapshots()
    assert backup.restore(home.repository, first, tmp_path / "old").erased_since == ("receipts/2.json",)
    assert backup.restore(home.repository, second, tmp_path / "new").erased_since == ()


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "a/../../b", "", "nul\0"])
def test_a_list_from_elsewhere_cannot_leave_the_home(path: str) -> None:
    head = Head(created_at=datetime.now(UTC), product_version="1", home="/h", tables=(), folders={})
    bad = Snapshot(head, (FileEntry(path, ("0" * 64,), 1, 0o600, 0, ""),))
    with pytest.raises(backup.DamagedBackup, match="below a home"):
        decode(encode(bad))


def test_a_table_vacuumed_while_it_is_copied_is_taken_anew(
    home: BackupHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an erasure does: files of the noted version are gone at once."""
    erased = threading.Event()
    store = backup.Repository.store

    def erase_first(self: backup.Repository, source: int, *, likely: str | None = None) -> object:
        if not erased.is_set():
            erased.set()
            home.tables.delete("ocr", ["b"])
            home.tables.vacuum("ocr", retention_hours=0)
        return store(self, source, likely=likely)

    monkeypatch.setattr(backup.Repository, "store", erase_first)
    home.take()
    new = home.restore(tmp_path / "new")
    assert home.rows(new) == home.rows()
    assert "b" not in {row["media_id"] for row in home.rows(new)["ocr"]}


def test_a_result_replaced_between_two_looks_is_not_torn(
    home: BackupHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is looked at first; then its rows are replaced; then the table is looked at."""
    looks: list[str] = []
    look = _backup_cut._table

    def write_in_between(log: Path) -> object:
        looks.append(log.parent.name)
        seen = look(log)
        if looks == ["analyses"]:
            home.add("a", rows=9, run="newer")
        return seen

    monkeypatch.setattr(_backup_cut, "_table", write_in_between)
    home.take()
    assert looks.count("analyses") == 4  # the first two looks differed
    tables = home.rows(home.restore(tmp_path / "new"))
    assert tables == home.rows()
    assert [row["text"] for row in tables["ocr"] if row["media_id"] == "a"] == [f"newer {n}" for n in range(9)]
