"""The nightly snapshot in Dagster, and who may look into a home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from media_pipeline.assets.backup import backup_home
from media_pipeline.cli import doctor
from media_pipeline.cli.context import App
from media_pipeline.config import Backup, load_settings
from media_pipeline.definitions import build
from media_pipeline.engine.instance import PROCESS_TAG, open_instance
from media_pipeline.storage.layout import Layout
from media_pipeline_tests._backup_home import BackupHome
from sensors.backup import nightly_backup


def test_there_is_no_schedule_unless_a_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert nightly_backup(Backup()) == []
    names = {schedule.name for schedule in build().schedules or ()}
    assert "nightly_backup" not in names
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__TO", str(tmp_path))
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__AT", "23:05")
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__TIMEZONE", "Europe/Berlin")
    schedule = build().resolve_schedule_def("nightly_backup")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 23 * * *", "Europe/Berlin")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "backup_home"


@pytest.mark.slow
def test_the_job_takes_a_snapshot_and_prunes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = BackupHome(tmp_path / "home", tmp_path / "backups")
    home.add("a")
    home.take()
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(home.layout.home))
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__TO", str(home.root))
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__KEEP_DAILY", "0")
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__KEEP_WEEKLY", "0")
    monkeypatch.setenv("MEDIA_PIPELINE_BACKUP__KEEP_MONTHLY", "1")
    with open_instance(load_settings()) as instance:
        result = backup_home.execute_in_process(instance=instance)
        run = instance.get_run_by_id(result.run_id)
    assert result.success
    assert run is not None
    assert PROCESS_TAG in run.tags  # a long one must not count as dead
    [snapshot] = home.repository.snapshots()
    restored = home.restore(tmp_path / "new", snapshot)
    assert home.rows(restored) == home.rows()
    with open_instance(load_settings(home=restored)) as instance:  # the log of the very run that took it
        assert instance.get_run_by_id(result.run_id) is not None


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_new_home_is_its_owners_only(tmp_path: Path) -> None:
    Layout(tmp_path / "below" / "home").create()
    assert (tmp_path / "below" / "home").stat().st_mode & 0o777 == 0o700
    Layout(tmp_path / "below" / "home").create()


@pytest.mark.usefixtures("open_umask")
def test_a_home_of_the_users_own_making_stays_and_doctor_warns(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    Layout(home).create()
    assert home.stat().st_mode & 0o777 == 0o755
    [warning] = [check for check in doctor._home(App(home=home)) if check.name == "privacy"]
    assert (warning.level, warning.remedy) == ("warning", f"chmod 700 '{home}'")
    home.chmod(0o700)
    assert [check for check in doctor._home(App(home=home)) if check.name == "privacy"] == []
