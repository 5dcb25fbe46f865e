"""The loop of the backup's container: a backup every night, a look at a part of its data every week.

Everything is decided anew from the wall clock and from the notes of the last backup every few seconds, so it survives
restarts, jumps of the clock and nights in which the server was off: what was missed is made up for.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType
from zoneinfo import ZoneInfo

from media_pipeline.config import Settings, child_environment
from media_pipeline.server.backup_child import run_child
from media_pipeline.server.backup_state import State, Status, now, parsed

Say = Callable[[str], None]

RETRY_S = 3600.0
CHECK_PARTS = 13  # of the data: one a week, all of them in a quarter
CHECK_EVERY = timedelta(days=7)
_PAUSE_S = 15.0
# As in `storage.layout`, whose package brings Arrow along: 70 MB for a process that sleeps all day.
SOURCES, RESTORING = "sources.sqlite", ".restoring"
# Of `installation backup`: done, no new snapshot, some files left out.
_ENDED_WITHOUT_SNAPSHOT = 1
_ORDERLY = (0, _ENDED_WITHOUT_SNAPSHOT, 3)


def run(settings: Settings, say: Say, *, retry_s: float = RETRY_S, pause_s: float = _PAUSE_S) -> None:
    """Until SIGTERM, after which nothing of a backup under way is left but what was sent."""
    state = State(settings)
    signal.signal(signal.SIGTERM, _leave)
    say(f"backups of {settings.home} to {settings.server.backup_repository}, every day at {_told(settings)}")
    loop = _Loop(settings, state, say, retry_s)
    while True:
        state.touch()
        # A new installation has no home yet, and one that is being restored is none.
        if (settings.home / SOURCES).exists() and not (settings.home / RESTORING).exists():
            loop.turn()
        time.sleep(pause_s)


def last_due(settings: Settings, at: datetime) -> datetime:
    """The last time of day at which a backup was to be made."""
    zone = ZoneInfo(settings.server.backup_timezone)
    hour, minute = map(int, settings.server.backup_at.split(":"))
    local = at.astimezone(zone)
    today = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    found = today.astimezone(UTC)
    if found > at:
        found = (today - timedelta(days=1)).astimezone(UTC)
    return found


def next_due(settings: Settings, at: datetime) -> datetime:
    zone = ZoneInfo(settings.server.backup_timezone)
    hour, minute = map(int, settings.server.backup_at.split(":"))
    today = at.astimezone(zone).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    found = today.astimezone(UTC)
    return found if found > at else (today + timedelta(days=1)).astimezone(UTC)


def is_due(settings: Settings, status: Status, at: datetime) -> bool:
    """Whether the last backup that went well is older than the last time of day for one."""
    last = parsed(status.last_success_at)
    # One of the future was made before the clock was put back: it says nothing.
    return last is None or last > at or last < last_due(settings, at)


class _Loop:
    """Each backup and check is a process of its own: its memory is free afterwards, and its end is not ours."""

    def __init__(self, settings: Settings, state: State, say: Say, retry_s: float) -> None:
        self._settings, self._state, self._say, self._retry_s = settings, state, say, retry_s
        self._not_before = 0.0  # monotonic
        self._not_again_until: datetime | None = None  # after a snapshot that lacks something: the next day's
        self._check_not_before = 0.0

    def turn(self) -> None:
        at = datetime.now(UTC)
        status = self._state.status()
        waiting = self._not_again_until is not None and at < self._not_again_until
        if is_due(self._settings, status, at) and not waiting and time.monotonic() >= self._not_before:
            self._back_up()
        elif self._is_check_due(status, at) and time.monotonic() >= self._check_not_before:
            self._check(at)

    def _back_up(self) -> None:
        before = self._state.status()
        code, line = self._run("backup")
        at, status = datetime.now(UTC), self._state.status()
        upcoming = next_due(self._settings, at)
        self._not_again_until = None
        if code == _ENDED_WITHOUT_SNAPSHOT or status.finished_at == before.finished_at:
            self._not_before = time.monotonic() + self._retry_s
            upcoming = at + timedelta(seconds=self._retry_s)
        elif status.error is not None:
            self._not_again_until = upcoming
        if code not in _ORDERLY:
            status.ok, status.error = False, f"the backup ended with code {code}: {line}"
            status.finished_at = now()
        status.next_at = upcoming.isoformat(timespec="seconds")
        self._state.write(status)
        self._say(f"{line if code in _ORDERLY else status.error}; next at {status.next_at}")

    def _is_check_due(self, status: Status, at: datetime) -> bool:
        if status.last_success_at is None:
            return False
        last = parsed(status.checked_at)
        return last is None or last > at or at - last >= CHECK_EVERY

    def _check(self, at: datetime) -> None:
        part = f"{int(at.timestamp() // CHECK_EVERY.total_seconds()) % CHECK_PARTS + 1}/{CHECK_PARTS}"
        code, line = self._run("check", "--part", part)
        if code == 0:
            self._say(f"part {part} of the backups was read: no damage")
            return
        if self._state.status().check_error is None:  # it says nothing about the backups
            self._check_not_before = time.monotonic() + self._retry_s
        self._say(f"check of the backups: {line}")

    def _run(self, *command: str) -> tuple[int, str]:
        """Exit code and last line."""
        args = [sys.executable, "-m", "media_pipeline", "installation", *command]
        done = run_child(args, child_environment(self._settings), self._state.touch)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return done.returncode, (lines or [""])[-1].removeprefix("media-pipeline: ")


def _told(settings: Settings) -> str:
    return f"{settings.server.backup_at} {settings.server.backup_timezone}"


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
