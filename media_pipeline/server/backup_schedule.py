"""The loop of the backup's container: a backup every night, a look at a part of its data every week.

Everything is decided anew from the wall clock and from the notes of the last backup every few seconds, so it survives
restarts, jumps of the clock and nights in which the server was off: what was missed is made up for.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from types import FrameType
from zoneinfo import ZoneInfo

from media_pipeline.config import Settings
from media_pipeline.errors import DamagedBackup, MediaPipelineError
from media_pipeline.server.backup import CHECK_PARTS, Report, Say, back_up_and_note, check
from media_pipeline.server.backup_state import State, Status, parsed
from media_pipeline.storage.layout import RESTORING, Layout

RETRY_S = 3600.0
CHECK_EVERY = timedelta(days=7)
_PAUSE_S = 15.0


def run(settings: Settings, say: Say, *, retry_s: float = RETRY_S, pause_s: float = _PAUSE_S) -> None:
    """Until SIGTERM, after which nothing of a backup under way is left but what was sent."""
    state, layout = State(settings), Layout(settings.home)
    signal.signal(signal.SIGTERM, _leave)
    say(f"backups of {layout.home} to {settings.server.backup_repository}, every day at {_told(settings)}")
    loop = _Loop(settings, state, say, retry_s)
    while True:
        state.touch()
        # A new installation has no home yet, and one that is being restored is none.
        if layout.sources.exists() and not (layout.home / RESTORING).exists():
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
        status, report = back_up_and_note(self._settings, self._state.touch)
        at = datetime.now(UTC)
        upcoming = next_due(self._settings, at)
        self._not_again_until = None
        if report is None:
            self._not_before = time.monotonic() + self._retry_s
            upcoming = at + timedelta(seconds=self._retry_s)
        elif status.error is not None:
            self._not_again_until = upcoming
        status.next_at = upcoming.isoformat(timespec="seconds")
        self._state.write(status)
        self._say(f"{outcome(status, report)}; next at {status.next_at}")

    def _is_check_due(self, status: Status, at: datetime) -> bool:
        if status.last_success_at is None:
            return False
        last = parsed(status.checked_at)
        return last is None or last > at or at - last >= CHECK_EVERY

    def _check(self, at: datetime) -> None:
        part = f"{int(at.timestamp() // CHECK_EVERY.total_seconds()) % CHECK_PARTS + 1}/{CHECK_PARTS}"
        try:
            check(self._settings, part, self._state.touch)
            self._say(f"part {part} of the backups was read: no damage")
        except DamagedBackup as error:
            self._say(f"the backups are damaged: {error}")
        except MediaPipelineError as error:
            self._check_not_before = time.monotonic() + self._retry_s
            self._say(f"the backups could not be checked: {error}")


def outcome(status: Status, report: Report | None) -> str:
    """One line on a backup."""
    if report is None:
        return f"backup failed: {status.error}"
    stored = report.stored
    line = (
        f"snapshot {stored.snapshot_id}: {stored.bytes_added / 1e6:.1f} MB added, {stored.files_new} files new, "
        f"{stored.files_changed} changed, {stored.files_unmodified} not read again, {report.seconds:.1f} s"
    )
    if status.forgotten:
        line += f"; {status.forgotten} old ones removed"
    if status.prune_error:
        line += f"; old ones could not be removed: {status.prune_error}"
    if report.problems and status.error is None:
        first = next(iter(report.problems.items()))
        line += f"; {len(report.problems)} files left out ({first[0]}: {first[1]})"
    return f"backup with errors: {status.error}; {line}" if status.error else f"backup done: {line}"


def _told(settings: Settings) -> str:
    return f"{settings.server.backup_at} {settings.server.backup_timezone}"


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
