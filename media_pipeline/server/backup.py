"""The backup of a whole installation: home, PostgreSQL and configuration as one encrypted snapshot.

Order is what makes it consistent. First the home at one instant (`storage.backup_view`), then PostgreSQL, then the
originals. So Dagster's storage is a moment newer than the results, never older: it knows every partition that the
home speaks of. What it believes done beyond that, the home does not have; our own ledger, which is in the home, decides
what is computed, and the sensor asks for it again. Runs that were under way are found dead by Dagster's monitoring.
(The other way round there would be media that the home holds for announced and Dagster has no partition of.)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from media_pipeline import __version__
from media_pipeline.config import Settings
from media_pipeline.errors import DamagedBackup, MediaPipelineError, UsageError
from media_pipeline.server import backup_postgres as postgres
from media_pipeline.server.backup_child import Tick
from media_pipeline.server.backup_postgres import PostgresFacts, Rows
from media_pipeline.server.backup_restic import Restic, ResticSnapshot, Stored
from media_pipeline.server.backup_state import BusyError, State, Status, now
from media_pipeline.storage.backup_view import (
    IN_PLACE,
    INBOX,
    DatabaseFacts,
    Digests,
    TableFacts,
    View,
    in_place,
    lay_out,
)
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import STAGE, Layout

FORMAT = 1
MANIFEST = "manifest.json"
HOME = "home"  # below the stage, as the next two
CONFIGURATION = "configuration"
DUMP = Path("postgres") / "dagster.dump"
_SECRETS = "secrets"
_NEVER = (Path(_SECRETS) / "backup",)  # the key cannot lie in what it opens
_LARGEST_CONFIGURATION_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot holds, so that a restored one can be compared with it."""

    created_at: str  # the instant of the home
    dumped_at: str | None
    product_version: str
    home: str
    tables: tuple[TableFacts, ...]
    databases: tuple[DatabaseFacts, ...]
    originals: int
    originals_bytes: int
    postgres: PostgresFacts | None
    configuration: tuple[str, ...] = ()
    linked_outside: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """
        Raises:
            DamagedBackup: this is none, or one of a newer version.
        """
        try:
            found: dict[str, Any] = json.loads(data)
            if found.pop("format") > FORMAT:
                raise DamagedBackup("the snapshot was made by a newer version", "upgrade media-pipeline")
            found["tables"] = tuple(TableFacts(**table) for table in found["tables"])
            found["databases"] = tuple(DatabaseFacts(**database) for database in found["databases"])
            found["configuration"] = tuple(found["configuration"])
            if (database := found["postgres"]) is not None:
                rows = {name: Rows(**row) for name, row in database["tables"].items()}
                found["postgres"] = PostgresFacts(database["server_version"], rows)
            return cls(**found)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedBackup(f"the list of the snapshot cannot be read: {error}", "use another snapshot") from error


@dataclass(frozen=True, slots=True)
class Report:
    """What a backup did."""

    stored: Stored
    manifest: Manifest
    copied_bytes: int  # for the time of the backup; all else was read where it lies
    linked: int
    seconds: float
    created: bool  # the repository
    problems: dict[str, str] = field(repr=False)  # reason by path: what is not in the snapshot
    grave: bool  # whether there are media or databases among them


def back_up(settings: Settings, tick: Tick = lambda: None) -> Report:
    """Takes one snapshot. The repository is made where there is none.

    Raises:
        MediaPipelineError: there is no new snapshot; former ones are whole.
    """
    started = time.monotonic()
    layout, state = Layout(settings.home), State(settings)
    restic = Restic(settings, tick)
    _require_apart(settings, restic)
    stage = layout.home / STAGE
    with state.locked():
        shutil.rmtree(stage, ignore_errors=True)  # of one that was killed
        former = restic.look()
        if former is None:
            restic.create()
        else:
            restic.unlock_stale()
        parent = former[-1].id if former else None
        digests = Digests(state.digests(), tick)
        try:
            with disk_full_explained(layout.home):
                view, manifest = _lay_out(settings, layout, stage, digests, tick)
            targets = [STAGE, *in_place(layout)]
            tags = [f"version-{__version__}", f"at-{manifest.created_at}"]
            stored = restic.back_up(layout.home, targets, parent=parent, tags=tags)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        state.keep_digests(digests.used)
    unread = _unread(layout, stored)
    grave = any(not path.startswith(f"{INBOX}{os.sep}") for path in unread)
    grave = grave or any(reason.startswith("SQLite") for reason in view.left_out.values())
    return Report(
        stored=stored,
        manifest=manifest,
        copied_bytes=view.copied_bytes,
        linked=view.linked,
        seconds=time.monotonic() - started,
        created=former is None,
        problems=view.left_out | unread,
        grave=grave,
    )


def back_up_and_note(settings: Settings, tick: Tick = lambda: None) -> tuple[Status, Report | None]:
    """A backup, the removal of old ones, and the note of both for the metrics. Raises nothing but interruptions."""
    state = State(settings)
    status = state.status()
    began, started = time.monotonic(), now()
    report, error = None, None
    try:
        report = back_up(settings, tick)
        if report.grave:
            error = _told(report.problems)
    except BusyError as busy:  # that one will note how it ended
        status.ok, status.error = False, str(busy)
        return status, None
    except MediaPipelineError as caught:
        error = str(caught)
    except Exception as caught:  # whatever it is, the metrics are to know
        error = f"{type(caught).__name__}: {caught}"
    status.started_at, status.seconds = started, round(time.monotonic() - began, 1)
    if report is not None:
        status.snapshot_id = report.stored.snapshot_id
        status.bytes_added, status.bytes_total = report.stored.bytes_added, report.stored.bytes_total
        status.files_unmodified = report.stored.files_unmodified
        status.problems = len(report.problems)
        try:
            status.forgotten, status.prune_error = forget(settings, tick), None
        except MediaPipelineError as caught:  # the snapshot is there; the next time will do
            status.forgotten, status.prune_error = 0, str(caught)
    status.finished_at = now()
    if error is None:
        status.last_success_at = status.finished_at
    # Damage that a check found is no success, whatever is stored on top of it.
    status.error = error or status.check_error
    status.ok = status.error is None
    state.write(status)
    return status, report


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


def forget(settings: Settings, tick: Tick = lambda: None) -> int:
    """Removes snapshots by age; the number of them."""
    server = settings.server
    with State(settings).locked():
        return Restic(settings, tick).forget(
            daily=server.backup_keep_daily, weekly=server.backup_keep_weekly, monthly=server.backup_keep_monthly
        )


def purge(settings: Settings, before: datetime, tick: Tick = lambda: None) -> list[ResticSnapshot]:
    """Removes all snapshots of before this time but the newest, with every byte that only they need."""
    restic = Restic(settings, tick)
    with State(settings).locked():
        restic.unlock_stale()
        old = [s for s in restic.snapshots()[:-1] if taken_at(s) < before]
        restic.remove([snapshot.id for snapshot in old])
    return old


def check(settings: Settings, subset: str | None, tick: Tick = lambda: None) -> None:
    """Reads a part of the data, and notes the result.

    Raises:
        DamagedBackup: something is not what was written.
    """
    state, restic = State(settings), Restic(settings, tick)
    try:
        with state.locked():
            restic.unlock_stale()
            restic.check(subset)
    except DamagedBackup as damage:
        _note_check(state, str(damage))
        raise
    # A store that cannot be reached says nothing about damage: only an answer is noted.
    _note_check(state, None)


def _note_check(state: State, error: str | None) -> None:
    status = state.status()
    former, status.checked_at, status.check_error = status.check_error, now(), error
    if error is not None:
        status.ok, status.error = False, error
    elif former is not None and status.error == former:
        status.ok, status.error = status.last_success_at is not None, None
    state.write(status)


def taken_at(snapshot: ResticSnapshot) -> datetime:
    """When restic began to read, which is when its snapshot is dated."""
    text = snapshot.time
    # Nanoseconds are more than Python reads.
    whole, _, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if rest else ""
    return datetime.fromisoformat((whole + zone).replace("Z", "+00:00")).astimezone(UTC)


def _require_apart(settings: Settings, restic: Restic) -> None:
    """A backup within the home would hold all backups before it.

    Raises:
        UsageError: it lies there.
    """
    home = settings.home.resolve()
    for folder in [settings.server.backup_state, *([Path(restic.repository)] if restic.is_local else [])]:
        if folder.resolve().is_relative_to(home) or home.is_relative_to(folder.resolve()):
            raise UsageError(f"{folder} and the home {home} lie one inside the other", "keep backups somewhere else")


def _lay_out(settings: Settings, layout: Layout, stage: Path, digests: Digests, tick: Tick) -> tuple[View, Manifest]:
    created_at = now()
    stage.mkdir(mode=0o700, exist_ok=True)
    view = lay_out(layout, stage / HOME, digests)
    tick()
    dumped_at, database = None, None
    if postgres.is_used(settings):
        (stage / DUMP).parent.mkdir(mode=0o700)
        dumped_at = now()
        database = postgres.dump(settings, stage / DUMP, tick)
    configuration = _copy_configuration(settings, stage / CONFIGURATION, view)
    manifest = Manifest(
        created_at=created_at,
        dumped_at=dumped_at,
        product_version=__version__,
        home=str(layout.home),
        tables=view.tables,
        databases=view.databases,
        originals=view.originals,
        originals_bytes=view.originals_bytes,
        postgres=database,
        configuration=configuration,
        linked_outside=view.linked_outside,
        left_out={path.encode("utf-8", "backslashreplace").decode(): why for path, why in view.left_out.items()},
    )
    (stage / MANIFEST).write_bytes(manifest.encode())
    return view, manifest


def _copy_configuration(settings: Settings, target: Path, view: View) -> tuple[str, ...]:
    source = settings.server.backup_configuration
    target.mkdir(mode=0o700)
    if not source.is_dir():
        view.left_out[str(source)] = "the folder with the configuration is not there"
        return ()
    copied = []
    for folder, folders, names in os.walk(source):
        here = Path(folder).relative_to(source)
        folders[:] = sorted(
            name
            for name in folders
            if here / name not in _NEVER and (here / name != Path(_SECRETS) or settings.server.backup_secrets)
        )
        for name in sorted(names):
            path = Path(folder) / name
            try:
                if not path.is_file():
                    continue
                if path.stat().st_size > _LARGEST_CONFIGURATION_BYTES:
                    view.left_out[str(path)] = "too large for configuration"
                    continue
                (target / here).mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copy2(path, target / here / name)
            except PermissionError as error:
                view.left_out[str(path)] = f"cannot be read: {error.strerror}"
                continue
            copied.append(str(here / name))
    return tuple(copied)


def _unread(layout: Layout, stored: Stored) -> dict[str, str]:
    """What restic could not read, by path below the home, but for what was removed meanwhile."""
    found = {}
    for item, reason in stored.errors.items():
        path = layout.home / item.lstrip("/") if not Path(item).is_relative_to(layout.home) else Path(item)
        name = str(path.relative_to(layout.home))
        if name.partition(os.sep)[0] in IN_PLACE and not os.path.lexists(path):
            continue
        found[name] = reason
    return found


def _told(problems: dict[str, str]) -> str:
    named = "; ".join(f"{path}: {reason}" for path, reason in list(problems.items())[:3])
    return f"{len(problems)} files are not in the backup ({named}); look at these files and the disk"
