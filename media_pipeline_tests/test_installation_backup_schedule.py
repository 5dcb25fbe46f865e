"""The loop that backs an installation up every night."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from media_pipeline.config import load_settings
from media_pipeline.server import backup_schedule
from media_pipeline.server.backup_state import ALIVE, State, Status
from media_pipeline.storage import layout
from media_pipeline.storage.layout import Layout
from media_pipeline_tests._installation import KEY, PATIENCE_S, Installation, make, needs_restic, start, wait_for


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return make(tmp_path)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "last", "following"),
    [
        ("2026-05-10T12:00", "2026-05-09T23:30", "2026-05-10T23:30"),
        ("2026-05-10T23:29", "2026-05-09T23:30", "2026-05-10T23:30"),
        ("2026-05-10T23:30", "2026-05-10T23:30", "2026-05-11T23:30"),
        ("2026-12-10T12:00", "2026-12-10T00:30", "2026-12-11T00:30"),  # winter
        ("2026-03-28T12:00", "2026-03-28T00:30", "2026-03-29T00:30"),  # the night in which the clocks go forward
        ("2026-10-24T23:45", "2026-10-24T23:30", "2026-10-26T00:30"),  # and back
    ],
)
def test_the_time_of_day_is_that_of_the_time_zone(tmp_path: Path, now: str, last: str, following: str) -> None:
    installation = Installation(tmp_path, backup_at="01:30", backup_timezone="Europe/Berlin")
    assert backup_schedule.last_due(installation.settings(), at(now)) == at(last)
    assert backup_schedule.next_due(installation.settings(), at(now)) == at(following)


@pytest.mark.parametrize(
    ("last", "due"),
    [
        (None, True),  # never
        ("2026-05-09T00:59:59+00:00", True),  # the server was off that night
        ("2026-05-10T01:00:00+00:00", False),
        ("2026-05-10T11:00:00+00:00", False),  # by hand
        ("2027-01-01T00:00:00+00:00", True),  # the clock was wrong
        ("nonsense", True),
    ],
)
def test_what_was_missed_is_made_up_for(tmp_path: Path, last: str | None, due: bool) -> None:
    settings = Installation(tmp_path, backup_at="01:00").settings()
    assert backup_schedule.is_due(settings, Status(last_success_at=last), at("2026-05-10T12:00")) is due


def test_a_time_zone_that_does_not_exist_fails_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a time zone"):
        Installation(tmp_path).settings(backup_timezone="Europe/Atlantis")


@pytest.mark.slow
@needs_restic
def test_the_loop_survives_failures_and_says_one_line_of_each(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in installation.environment().items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    key = installation.keys / "restic_password"
    key.rename(key.with_name("away"))
    settings = load_settings()
    loop = backup_schedule._Loop(settings, State(settings), said.append, retry_s=0.0)
    loop.turn()
    loop.turn()
    assert [line.split(":")[0] for line in said] == ["backup failed", "backup failed"]
    assert installation.status.next_at is not None
    patient = backup_schedule._Loop(settings, State(settings), said.append, retry_s=3600.0)
    patient.turn()
    patient.turn()  # within the hour: not again
    assert len(said) == 3
    key.with_name("away").rename(key)
    loop.turn()
    assert said[3].startswith("backup done: snapshot ")
    loop.turn()  # nothing is due but the first look at the data
    loop.turn()
    assert said[4:] == [said[4]]
    assert said[4].endswith("of the backups was read: no damage")
    assert installation.status.ok
    assert KEY not in "".join(said)


@pytest.mark.slow
def test_a_backup_that_ends_without_a_word_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Installation(tmp_path).settings()
    said: list[str] = []
    loop = backup_schedule._Loop(settings, State(settings), said.append, retry_s=3600.0)
    monkeypatch.setattr(loop, "_run", lambda *command: (-9, ""))
    loop.turn()
    loop.turn()
    status = State(settings).status()
    assert (status.ok, status.error) == (False, "the backup ended with code -9: ")
    assert len(said) == 1


def test_the_loop_knows_a_home_by_the_names_it_has(tmp_path: Path) -> None:
    assert Layout(tmp_path).sources == tmp_path / backup_schedule.SOURCES
    assert backup_schedule.RESTORING == layout.RESTORING


@pytest.mark.slow
@needs_restic
def test_the_container_makes_up_for_the_first_night_and_ends_when_asked(installation: Installation) -> None:
    (installation.path / ".restoring").touch()  # a home that is being restored is none yet
    process = start(installation, "schedule")
    try:
        assert process.stdout is not None
        assert "every day at 01:00 UTC" in process.stdout.readline()
        wait_for(lambda: (installation.folder / "state" / ALIVE).exists(), "a sign of life")
        assert installation.status.started_at is None
        (installation.path / ".restoring").unlink()
        assert "backup done: snapshot" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert installation.status.ok


@pytest.mark.slow
@needs_restic
def test_a_container_that_is_stopped_in_the_middle_leaves_nothing(installation: Installation) -> None:
    installation.add(media=8, size=4_000_000)
    process = start(installation, "schedule", backup_upload_kib_s=1500)
    try:
        wait_for(lambda: process.poll() is not None or installation.stored_bytes() > 2_000_000, "sending")
        assert installation.stage.exists()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert not installation.stage.exists()
    assert installation.run_restic("list", "locks", "--no-lock") == ""
    assert installation.status.finished_at is None
    assert installation.back_up_and_note().ok
