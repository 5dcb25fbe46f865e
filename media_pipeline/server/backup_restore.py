"""A snapshot of an installation becomes an installation again, on this server or another; nothing is overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from media_pipeline.config import Settings
from media_pipeline.errors import DamagedBackup, DiskFull, UsageError
from media_pipeline.server import backup_postgres as postgres
from media_pipeline.server.backup import CONFIGURATION, DUMP, HOME, MANIFEST, Manifest
from media_pipeline.server.backup_child import Tick
from media_pipeline.server.backup_restic import Restic, chosen
from media_pipeline.storage.backup_view import IN_PLACE, database_facts, read_rows, sha256, table_facts
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import RESTORING, STAGE

RECEIPTS = "receipts"
_ARRIVED = ".restored"  # what restic writes, below the new home: on its disk, so that everything is moved by name
_ENTRYPOINTS_OWN = Path("dagster") / "dagster.yaml"  # the container's entrypoint makes it in an empty home


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    snapshot: str
    manifest: Manifest
    files: int
    bytes: int
    seconds: float
    database: str | None  # that was filled
    erased_since: tuple[str, ...]  # receipts of erasures after the snapshot: what they name is back
    wrong: tuple[str, ...] = field(repr=False)  # where it is not what the snapshot's list says


def restore(
    settings: Settings,
    snapshot: str | None,
    home: Path,
    *,
    configuration: Path | None = None,
    database: str | None = None,
    tick: Tick = lambda: None,
) -> Restored:
    """Writes a snapshot into an empty home and, where asked for, an empty database and an empty folder.

    Interrupted, the same call begins again.

    Raises:
        UsageError: something is not empty; nothing was done.
        DamagedBackup: the snapshot cannot be restored. The home is marked as incomplete, and no command takes it.
    """
    started = time.monotonic()
    restic = Restic(settings, tick)
    snapshots = restic.snapshots()
    found = chosen(snapshots, snapshot)
    if configuration is not None and configuration.exists() and any(configuration.iterdir()):
        raise UsageError(f"{configuration} is not empty", "name a new folder; nothing is ever overwritten")
    if database is not None:
        postgres.require_empty(database)
    _take(home, found.id)
    with disk_full_explained(home):
        arrived = home / _ARRIVED
        manifest = fetch(restic, found.id, arrived)
        stage = arrived / STAGE
        if configuration is not None and (stage / CONFIGURATION).is_dir():
            shutil.copytree(stage / CONFIGURATION, configuration, dirs_exist_ok=True)
            configuration.chmod(0o700)
        if database is not None and manifest.postgres is None:
            raise UsageError("the snapshot holds no database", "restore it with --no-postgres")
        _merge(stage / HOME, home)
        for name in IN_PLACE:
            if (arrived / name).is_dir():
                _merge(arrived / name, home / name)
        wrong = tuple(differences(manifest, home))
        # Last, and all or nothing: begun again, the call finds it empty.
        if database is not None and manifest.postgres is not None:
            postgres.load(settings, stage / DUMP, database, tick)
            there = postgres.facts(database).tables
            wrong += tuple(
                f"table {name} of PostgreSQL has another content"
                for name, rows in manifest.postgres.tables.items()
                if there.get(name) != rows
            )
        shutil.rmtree(arrived)
    files, size = _measured(home)
    (home / RESTORING).unlink()
    return Restored(
        snapshot=found.id,
        manifest=manifest,
        files=files,
        bytes=size,
        seconds=time.monotonic() - started,
        database=database,
        erased_since=_erased_since(restic, snapshots[-1].id, home) if found != snapshots[-1] else (),
        wrong=wrong,
    )


def fetch(
    restic: Restic, snapshot_id: str, target: Path, *, without: tuple[str, ...] = (), verify: bool = True
) -> Manifest:
    """The files of a snapshot as they are in it, and its list.

    Raises:
        DamagedBackup: a part of it is not what was written, or it is none of ours.
        DiskFull: there is no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not without:  # else nobody knows how much of it that is
        _require_room(target.parent, restic.size(snapshot_id))
    restic.restore(snapshot_id, target, without=without, verify=verify)
    try:
        return Manifest.decode((target / STAGE / MANIFEST).read_bytes())
    except OSError as error:
        raise DamagedBackup("this is no snapshot of an installation", "name another one") from error


def differences(manifest: Manifest, home: Path) -> Iterator[str]:
    """Where a restored home is not what the list of its snapshot says."""
    for table in manifest.tables:
        try:
            found = table_facts(home, table.path)
            rows = read_rows(home, table.path, found.version)
        except Exception as error:  # whatever keeps a table from being read is the finding
            yield f"table {table.path} cannot be read: {error}"
            continue
        if found != table or rows != table.rows:
            yield (
                f"table {table.path}: version {found.version} with {rows} rows "
                f"instead of version {table.version} with {table.rows}"
            )
    for database in manifest.databases:
        try:
            if database_facts(home / database.path, database.path) != database:
                yield f"database {database.path} has another content"
        except (OSError, sqlite3.Error) as error:
            yield f"database {database.path} cannot be read: {error}"


def damaged_originals(home: Path, tick: Tick = lambda: None) -> tuple[int, list[str]]:
    """How many originals there are, and those whose content is not what their name says."""
    count, damaged = 0, []
    for path in sorted((home / "originals").rglob("*")):
        if path.is_file():
            count += 1
            if sha256(path) != path.name.partition(".")[0]:
                damaged.append(str(path.relative_to(home)))
            tick()
    return count, damaged


def _take(home: Path, snapshot_id: str) -> None:
    """Makes the folder ours, before anything is written to it."""
    mark = home / RESTORING
    said = json.dumps({"installation": snapshot_id})
    try:
        if mark.exists():
            if mark.read_text(encoding="utf-8") != said:
                raise UsageError(f"{home} is being restored from another snapshot", "name an empty folder")
            _clear(home)
            return
        if home.exists():
            _require_empty(home)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.write_text(said, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{home} cannot be written: {error.strerror}", "name another folder") from error


def _require_empty(home: Path) -> None:
    """No file: empty folders may be where volumes are mounted."""
    for folder, folders, names in os.walk(home):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            path = (Path(folder) / name).relative_to(home)
            if path != _ENTRYPOINTS_OWN:
                raise UsageError(
                    f"{home} is not empty: it has {path}", "name a new or empty folder; nothing is ever overwritten"
                )


def _clear(home: Path) -> None:
    """Removes what an interrupted call has written; it was empty before."""
    for entry in list(os.scandir(home)):
        path = Path(entry.path)
        if entry.name == RESTORING:
            continue
        if entry.is_dir(follow_symlinks=False):
            if path.is_mount():
                for below in list(path.iterdir()):
                    shutil.rmtree(below) if below.is_dir() and not below.is_symlink() else below.unlink()
            else:
                shutil.rmtree(path)
        else:
            path.unlink()


def _merge(source: Path, target: Path) -> None:
    """Moves a file or the content of a folder. A folder that is there stays: it may be a volume."""
    if source.is_dir() and not source.is_symlink() and target.is_dir():
        for child in sorted(source.iterdir()):
            _merge(child, target / child.name)
        with suppress(PermissionError):
            target.chmod(source.stat().st_mode & 0o777)
        return
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFull(
            f"{size / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free at {folder}", "name another disk"
        )


def _measured(home: Path) -> tuple[int, int]:
    sizes = [path.lstat().st_size for path in home.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _erased_since(restic: Restic, newest: str, home: Path) -> tuple[str, ...]:
    """Receipts that the newest snapshot has and this one lacks."""
    return tuple(name for name in restic.names(newest, RECEIPTS) if not (home / name).exists())
