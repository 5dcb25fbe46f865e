"""Encrypted backups of an installation by the real restic: what is in them, what they cost, what comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.errors import StorageConflict, UsageError
from media_pipeline.server import backup, backup_restore
from media_pipeline.server.backup_restic import Restic
from media_pipeline.server.backup_state import STATUS, State
from media_pipeline.storage import backup_view
from media_pipeline.storage.sightings import stamp
from media_pipeline_tests import _cli
from media_pipeline_tests._backup_home import BackupHome, content
from media_pipeline_tests._installation import KEY, Installation, make, needs_restic, record_arguments
from media_pipeline_tests.test_backup_running import require_whole, writers

pytestmark = [pytest.mark.slow, needs_restic]


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return make(tmp_path)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_restored_is_what_was_backed_up(installation: Installation, tmp_path: Path) -> None:
    home = installation.path
    content(home / "rules" / "mine.yaml", b"rules: []\n", mode=0o640)
    content(home / "keys" / "receipts.key", b"signs", mode=0o600)
    content(home / "indexes" / "texts" / "big", b"made again")
    content(home / "cache" / "frames", b"made again")
    content(home / "originals" / ".incoming" / "half", b"what a living process writes")
    content(home / "dagster" / "runs.db", b"SQLite format 3\0 and then nothing that SQLite wrote")
    rows, files = installation.home.rows(), BackupHome.files(home)
    report = installation.back_up()
    assert report.created
    assert report.grave  # a database that cannot be read is
    assert [*report.problems] == ["dagster/runs.db"]
    done = installation.restore(tmp_path / "new", configuration=tmp_path / "conf")
    assert done.wrong == ()
    assert installation.home.rows(tmp_path / "new") == rows
    assert BackupHome.files(tmp_path / "new") == {
        name: found
        for name, found in files.items()
        if not name.startswith(("indexes", "cache", "originals/.incoming", "dagster"))
    }
    media = list(BackupHome(tmp_path / "new", tmp_path / "other").sources.all_media())
    assert len(media) == 3
    assert all(medium.stored.is_relative_to(tmp_path / "new") and medium.stored.is_file() for medium in media)
    assert names(tmp_path / "conf") == {".env"}  # secrets only where the operator agrees
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_secrets_are_in_it_where_the_operator_agrees_but_the_key_of_the_backups_never(tmp_path: Path) -> None:
    installation = make(tmp_path, backup_secrets=True)
    installation.back_up()
    installation.restore(tmp_path / "new", configuration=tmp_path / "conf")
    assert names(tmp_path / "conf") == {".env", "secrets/media/vast_api_key"}
    assert (tmp_path / "conf" / "secrets" / "media" / "vast_api_key").stat().st_mode & 0o777 == 0o600


def test_the_second_backup_reads_and_stores_next_to_nothing(installation: Installation) -> None:
    installation.add(media=30)
    first = installation.back_up()
    same = installation.back_up()
    unread = len(names(installation.path / "originals")) + len(names(installation.path / "inbox"))
    unread += sum(len(names(installation.path / "tables" / name)) for name in ("ocr", "titles"))
    assert unread > 70
    # What is read again are copies: databases, the list, .env, and the pointers to checkpoints.
    assert same.stored.files_unmodified >= unread
    assert same.stored.files_new == 0
    assert same.stored.files_changed <= 6
    assert first.stored.bytes_added > 3_300_000
    assert same.stored.bytes_added < 100_000
    installation.add(media=1)
    more = installation.back_up()
    assert 100_000 < more.stored.bytes_added < 400_000
    assert more.stored.files_unmodified >= unread


def test_nothing_immutable_is_copied_for_the_time_of_the_backup(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.add(media=10)
    seen: dict[str, os.stat_result] = {}
    back_up = Restic.back_up

    def look(self: Restic, folder: Path, targets: Any, **options: Any) -> Any:
        seen.update({name: (installation.stage / name).stat() for name in names(installation.stage)})
        return back_up(self, folder, targets, **options)

    monkeypatch.setattr(Restic, "back_up", look)
    report = installation.back_up()
    tables = {name: found for name, found in seen.items() if name.endswith((".parquet", "0.json"))}
    assert tables
    assert all(found.st_nlink == 2 for found in tables.values())
    assert not [name for name in seen if name.startswith(("home/originals", "home/inbox"))]
    assert sum(found.st_size for found in seen.values() if found.st_nlink == 1) < 300_000 < 1_300_000
    assert report.copied_bytes < 200_000
    assert not installation.stage.exists()
    assert all(path.stat().st_nlink == 1 for path in (installation.path / "tables").rglob("*") if path.is_file())


def test_files_of_the_inbox_do_not_look_changed_to_the_intake(installation: Installation) -> None:
    files = [path for name in ("inbox", "originals") for path in (installation.path / name).rglob("*")]
    before = {path: stamp(path.stat()) for path in files if path.is_file()}
    installation.back_up()
    assert {path: stamp(path.stat()) for path in before} == before


def test_where_links_are_impossible_files_are_copied(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(backup_view.os, "link", refuse)
    report = installation.back_up()
    assert report.linked == 0
    assert installation.restore(tmp_path / "new").wrong == ()
    assert installation.home.rows(tmp_path / "new") == installation.home.rows()


def test_originals_on_another_disk_are_in_it(installation: Installation, tmp_path: Path) -> None:
    originals = installation.path / "originals"
    content_there = BackupHome.files(installation.path)
    originals.rename(tmp_path / "disk2")
    originals.symlink_to(tmp_path / "disk2")
    installation.back_up()
    installation.add(media=20)  # with folders that the first backup had no part of
    again = installation.back_up()
    assert again.stored.files_unmodified >= 6
    installation.restore(tmp_path / "new")
    assert content_there.items() <= BackupHome.files(tmp_path / "new").items()


def test_every_entry_of_the_ledger_has_its_rows_while_others_write(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    with writers(installation.home, 1):
        for number in range(3):
            report = installation.back_up()
            assert report.problems == {}
            done = installation.restore(tmp_path / f"new-{number}")
            assert done.wrong == ()
            require_whole(installation.home, tmp_path / f"new-{number}")


def test_it_is_encrypted_and_the_keys_are_said_nowhere(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content(installation.path / "inbox" / "letter.txt", b"a letter that nobody may read" * 50)
    log = record_arguments(monkeypatch, tmp_path, "restic")
    taken = [installation.cli("backup"), installation.cli("backup", "--format", "json"), installation.cli("list")]
    assert [done.returncode for done in taken] == [0, 0, 0], [done.stderr for done in taken]
    told = "".join(done.stdout + done.stderr for done in taken)
    told += log.read_text() + (tmp_path / "state" / STATUS).read_text()
    assert "--ignore-ctime" in told
    for secret in (KEY, "opens the purse"):
        assert secret not in told
    stored = b"".join(path.read_bytes() for path in installation.repository.rglob("*") if path.is_file())
    cached = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for secret in (b"a letter that nobody may read", b"MEDIA_PIPELINE_LANGUAGE", KEY.encode()):
        assert secret not in stored + cached


def test_a_key_is_made_once_and_shown_once(tmp_path: Path) -> None:
    installation = make(tmp_path)
    (tmp_path / "keys" / "restic_password").unlink()
    without = installation.cli("backup")
    assert without.returncode == 1
    assert "installation init" in without.stderr
    made = installation.cli("init")
    key = (tmp_path / "keys" / "restic_password").read_text().strip()
    assert key in made.stderr
    assert len(key) == 47
    assert (tmp_path / "keys" / "restic_password").stat().st_mode & 0o777 == 0o600
    again = installation.cli("init")
    assert again.returncode == 2
    assert key not in again.stderr
    assert installation.cli("backup").returncode == 0


def test_nothing_is_overwritten(installation: Installation, tmp_path: Path) -> None:
    installation.back_up()
    content(tmp_path / "used" / "notes.txt", b"mine")
    with pytest.raises(UsageError, match=r"not empty: it has notes\.txt"):
        installation.restore(tmp_path / "used")
    with pytest.raises(UsageError, match="used is not empty"):
        installation.restore(tmp_path / "new", configuration=tmp_path / "used")
    assert not (tmp_path / "new").exists()
    assert names(tmp_path / "used") == {"notes.txt"}


def test_folders_where_volumes_are_mounted_are_no_obstacle(installation: Installation, tmp_path: Path) -> None:
    """In a container the inbox is a volume below the home, and the entrypoint has written Dagster's configuration."""
    installation.back_up()
    (tmp_path / "new" / "inbox").mkdir(parents=True)
    inode = (tmp_path / "new" / "inbox").stat().st_ino
    content(tmp_path / "new" / "dagster" / "dagster.yaml", b"storage: {}\n")
    installation.restore(tmp_path / "new")
    assert (tmp_path / "new" / "inbox").stat().st_ino == inode
    assert names(tmp_path / "new" / "inbox") == names(installation.path / "inbox")


def test_an_interrupted_restore_begins_again(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = installation.back_up().stored.snapshot_id
    installation.add()
    installation.back_up()
    merge, done = backup_restore._merge, []

    def die(source: Path, target: Path) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(source)
        merge(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(backup_restore, "_merge", die)
        installation.restore(tmp_path / "new")
    incomplete = _cli.run(tmp_path / "new", "status")
    assert "is being restored" in incomplete.stderr
    with pytest.raises(UsageError, match="from another snapshot"):
        installation.restore(tmp_path / "new", first)
    assert installation.restore(tmp_path / "new").wrong == ()
    assert installation.home.rows(tmp_path / "new") == installation.home.rows()


def test_erasures_that_came_after_the_snapshot_are_named(installation: Installation, tmp_path: Path) -> None:
    content(installation.path / "receipts" / "one.json", b"{}")
    first = installation.back_up().stored.snapshot_id
    content(installation.path / "receipts" / "two.json", b"{}")
    installation.back_up()
    assert installation.restore(tmp_path / "old", first).erased_since == ("receipts/two.json",)
    assert installation.restore(tmp_path / "new").erased_since == ()
    told = installation.cli("restore", "--snapshot", first, "--home", tmp_path / "third")
    assert told.returncode == 0
    assert "1 erasures came after this snapshot" in told.stderr


def test_old_snapshots_go_by_age_and_the_newest_stays(installation: Installation) -> None:
    installation.back_up()
    days = [f"2026-{month:02}-{day:02}" for month in (3, 4) for day in (1, 14, 25, 28)]
    for day in days:  # of long ago, as restic dates them
        installation.run_restic(
            *("backup", "--tag", "media-pipeline", "--host", "installation", "--time", f"{day} 01:00:00"),
            str(installation.configuration / ".env"),
        )
    installation.run_restic("backup", "--time", "2026-03-01 01:00:00", str(installation.configuration / ".env"))
    keeps = {"backup_keep_daily": 3, "backup_keep_weekly": 0, "backup_keep_monthly": 2}
    assert backup.forget(installation.settings(**keeps)) == len(days) - 2
    left = [backup.taken_at(snapshot).date().isoformat() for snapshot in installation.restic().snapshots()]
    assert left[:2] == ["2026-04-25", "2026-04-28"]
    assert len(left) == 3
    # What somebody else keeps in the repository is theirs.
    assert len(json.loads(installation.run_restic("snapshots", "--json"))) == 4
    assert backup.forget(installation.settings(**dict.fromkeys(keeps, 0))) == 2
    assert len(installation.restic().snapshots()) == 1


def test_what_was_erased_is_gone_from_the_repository_after_a_purge(installation: Installation) -> None:
    [erased] = installation.add(media=1, size=2_000_000)
    installation.back_up()
    for path in (*installation.path.rglob("*"),):
        if path.is_file() and path.stat().st_size == 2_000_000:
            path.unlink()
    installation.back_up()
    before = installation.stored_bytes()
    assert erased
    done = installation.cli("prune", "--all-before", "2999-01-01", "--yes")
    assert "1 snapshots removed" in done.stderr
    assert before - installation.stored_bytes() > 1_900_000
    assert len(installation.restic().snapshots()) == 1
    installation.cli("check", "--read-data").check_returncode()


def test_two_at_once(installation: Installation) -> None:
    with State(installation.settings()).locked(), pytest.raises(StorageConflict, match="another backup"):
        installation.back_up()
    assert not installation.stage.exists()
    good = installation.back_up_and_note()
    with State(installation.settings()).locked():
        told = installation.cli("backup")
    assert told.returncode == 1
    assert "another backup, check or prune of this installation runs; let it finish" in told.stderr
    assert installation.status == good  # the other one notes how it ended


def test_a_repository_within_the_home_is_refused(installation: Installation) -> None:
    for name in ("backup_repository", "backup_state"):
        with pytest.raises(UsageError, match="lie one inside the other"):
            installation.back_up(**{name: str(installation.path / "backups")})
    assert not (installation.path / "backups" / "config").exists()


def test_a_local_backup_leaves_the_stage_of_the_other_kind_alone(installation: Installation, tmp_path: Path) -> None:
    content(installation.stage / "home" / "sources.sqlite", b"of a backup that was killed")
    installation.home.take()
    restored = installation.home.restore(tmp_path / "new")
    assert not (restored / installation.stage.name).exists()
