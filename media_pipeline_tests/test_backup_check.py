"""Finding what is damaged in a repository, testing it by restoring, and removing what is old."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from media_pipeline.cli import cli
from media_pipeline.errors import UsageError
from media_pipeline.storage import backup
from media_pipeline.storage._backup_repository import _ID_TIME
from media_pipeline_tests._backup_home import BackupHome, content


@pytest.fixture
def home(tmp_path: Path) -> BackupHome:
    made = BackupHome(tmp_path / "home", tmp_path / "backups")
    made.add("a", "b")
    return made


def spoil(home: BackupHome, digest: str) -> None:
    path = home.repository.object_path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def run(home: BackupHome, *args: str | Path) -> tuple[int, dict[str, object]]:
    done = CliRunner().invoke(
        cli, ["--home", str(home.layout.home), *map(str, args), "--format", "json"], standalone_mode=False
    )
    assert done.exception is None, done.output
    return done.return_value or 0, json.loads(done.stdout)


def test_a_flipped_bit_is_found_named_and_mended_by_the_next_backup(home: BackupHome, tmp_path: Path) -> None:
    media_id = home.take_in("photo.jpg", b"photo" * 100)
    home.take()
    assert backup.verify(home.repository).damages == ()
    spoil(home, media_id)
    restored = backup.restore(home.repository, home.repository.resolve(None), tmp_path / "without")
    assert set(restored.damaged) == {f"originals/{media_id[:2]}/{media_id}", "inbox/photo.jpg"}
    assert not (tmp_path / "without" / "inbox" / "photo.jpg").exists()

    code, found = run(home, "backup", "verify", home.root)
    [damage] = found["damages"]  # type: ignore[misc]
    assert (code, damage["name"], damage["what"]) == (1, media_id, "changed")
    assert "inbox/photo.jpg" in damage["files"]
    assert backup.verify(home.repository).damages[0].what == "gone"  # set aside
    assert home.take().new_bytes >= 500
    assert backup.verify(home.repository).damages == ()
    assert (home.restore(tmp_path / "new") / "inbox" / "photo.jpg").read_bytes() == b"photo" * 100


def test_a_home_without_a_part_of_a_table_is_not_restored(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    part = next(file for file in home.newest().files if file.path.startswith("tables/ocr/0"))
    spoil(home, part.parts[0])
    with pytest.raises(backup.DamagedBackup, match="tables/ocr"):
        home.restore(tmp_path / "new")
    home.repository.object_path(part.parts[0]).unlink()
    with pytest.raises(backup.DamagedBackup, match="is gone"):
        home.restore(tmp_path / "new")


def test_a_changed_list_is_found_and_the_other_snapshots_serve(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    home.add("c")
    home.take()
    first, second = home.repository.snapshots()
    path = home.root / "snapshots" / f"{second}.json.gz"
    path.write_bytes(path.read_bytes()[:-9] + b"*" * 9)
    [damage] = backup.verify(home.repository).damages
    assert damage.name == second
    with pytest.raises(backup.DamagedBackup, match="changed after it was written"):
        home.restore(tmp_path / "new")
    home.restore(tmp_path / "old", first)
    with pytest.raises(backup.DamagedBackup):  # what it needs is not known
        backup.remove(home.repository, [first])
    assert home.repository.snapshots() == [first, second]
    assert home.take().problems == {}


def test_a_restore_is_tested_as_a_whole(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    new = home.restore(tmp_path / "new")
    assert list(backup.examine(new, home.newest())) == []
    home.tables.replace("ocr", home.tables.read("ocr", ["a"]), ["a"])
    home.take()
    [line] = backup.examine(new, home.newest())
    assert "table tables/ocr: version" in line
    content(new / "sources.sqlite", b"SQLite format 3\0 and nothing else")
    next((new / "tables" / "titles").glob("*.parquet")).unlink()
    wrong = list(backup.examine(new, home.newest()))
    assert [line.split(" cannot")[0].split(":")[0] for line in wrong] == [
        "table tables/ocr",
        "table tables/titles",
        "database sources.sqlite",
    ]


@pytest.mark.slow
def test_the_command_that_tests_leaves_nothing_behind(home: BackupHome, tmp_path: Path) -> None:
    home.take()
    (tmp_path / "scratch").mkdir()
    code, found = run(home, "backup", "test", home.root, "--in", tmp_path / "scratch")
    assert (code, found["wrong"]) == (0, [])
    assert int(str(found["views"])) > 10
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_list_says_what_each_snapshot_added(home: BackupHome) -> None:
    home.take()
    home.take_in("photo.jpg", b"photo" * 40_000)
    home.take()
    _, found = run(home, "backup", "list", home.root)
    first, second = found
    assert (second["files"] - first["files"], second["bytes"] > first["bytes"]) == (2, True)  # type: ignore[index]
    assert 200_000 <= second["new_bytes"] < 400_000  # type: ignore[index]


NOW = datetime(2026, 11, 20, 1, tzinfo=UTC)


def ids(*days: float) -> list[str]:
    return [f"{(NOW - timedelta(days=day)).strftime(_ID_TIME)}-0123456789ab" for day in days]


def test_the_rule_keeps_the_newest_of_each_period() -> None:
    every_six_hours = ids(*(n / 4 for n in range(4 * 400)))
    kept = backup.kept_by(every_six_hours, backup.Keep(7, 4, 6))
    days = sorted(f"{i[4:6]}-{i[6:8]}" for i in kept)
    assert days == [
        *("06-30", "07-31", "08-31", "09-30", "10-31"),  # months
        *("11-01", "11-08"),  # Sundays
        *("11-14", "11-15", "11-16", "11-17", "11-18", "11-19", "11-20"),  # days; 20 November is a Friday
    ]
    assert backup.kept_by(every_six_hours, backup.Keep(0, 0, 0)) == {every_six_hours[0]}
    assert backup.kept_by([], backup.Keep()) == set()


def test_a_rare_backup_is_not_forgotten_because_time_went_by() -> None:
    rare = ids(0, 100, 200, 300)
    assert backup.kept_by(rare, backup.Keep(daily=3, weekly=0, monthly=0)) == set(rare[:3])


def test_everything_of_before_a_day_goes_but_never_all() -> None:
    three = ids(1, 10, 20)
    assert backup.older_than(three, NOW - timedelta(days=5)) == set(three[1:])
    with pytest.raises(UsageError, match="make a new backup first"):
        backup.older_than(three, NOW)


@pytest.mark.slow
def test_pruning_frees_what_only_old_snapshots_hold(home: BackupHome, tmp_path: Path) -> None:
    content(home.layout.inbox / "secret.jpg", b"secret" * 1000)
    home.take()
    (home.layout.inbox / "secret.jpg").unlink()
    home.add("c")
    home.take()
    home.take()
    assert any(b"secret" in path.read_bytes() for path in (home.root / "objects").rglob("*") if path.is_file())
    code, pruned = run(
        home, "backup", "prune", home.root, "--keep-daily", "0", "--keep-weekly", "0", "--keep-monthly", "0", "--yes"
    )
    assert (code, len(pruned["removed"]), len(pruned["kept"])) == (0, 2, 1)  # type: ignore[arg-type]
    assert int(str(pruned["freed_bytes"])) >= 6000
    assert not any(b"secret" in path.read_bytes() for path in (home.root / "objects").rglob("*") if path.is_file())
    assert home.rows(home.restore(tmp_path / "new")) == home.rows()
    found = backup.verify(home.repository)
    assert (found.snapshots, found.unnamed, found.damages) == (1, 0, ())
