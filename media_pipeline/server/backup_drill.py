"""The restore drill: the newest snapshot is restored beside the installation, compared with it, and removed.

Compared is with the list that was made when the snapshot was taken, so a difference means something also when the
installation has gone on since; and with the installation itself, where it still has the version.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import MediaPipelineError
from media_pipeline.server import backup_postgres as postgres
from media_pipeline.server.backup import DUMP, HOME, Manifest
from media_pipeline.server.backup_child import Tick
from media_pipeline.server.backup_postgres import PostgresFacts
from media_pipeline.server.backup_restic import Restic, chosen
from media_pipeline.server.backup_restore import damaged_originals, fetch
from media_pipeline.storage.backup_view import (
    IN_PLACE,
    INBOX,
    Digests,
    TableFacts,
    database_facts,
    read_rows,
    table_facts,
)
from media_pipeline.storage.layout import STAGE

SAME = "same"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was compared."""

    what: str  # table, database, originals, postgres, dagster, views
    name: str
    live: str  # in the installation now
    snapshot: str
    restored: str
    verdict: str

    @property
    def is_same(self) -> bool:
        return self.verdict == SAME


@dataclass(frozen=True, slots=True)
class Drill:
    """What a drill found."""

    snapshot: str
    taken_at: str
    lines: tuple[Line, ...]
    seconds: float

    @property
    def differences(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if not line.is_same)


def drill(
    settings: Settings,
    snapshot: str | None = None,
    *,
    folder: Path | None = None,
    originals: bool = True,
    tick: Tick = lambda: None,
) -> Drill:
    """Restores a snapshot for the time of the comparison.

    Args:
        folder: with room for a home
        originals: else originals and the inbox are left out, for a disk without that room

    Raises:
        MediaPipelineError: it did not come to a comparison.
    """
    started = time.monotonic()
    restic = Restic(settings, tick)
    found = chosen(restic.snapshots(), snapshot)
    folder = folder or settings.server.backup_state / "drill"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    without = () if originals else tuple(name for name in IN_PLACE if name in ("originals", INBOX))
    with tempfile.TemporaryDirectory(prefix="restore-drill-", dir=folder) as scratch:
        arrived = Path(scratch) / "arrived"
        # What is compared below is read anyway.
        manifest = fetch(restic, found.id, arrived, without=without, verify=False)
        home = arrived / STAGE / HOME
        lines = [*_tables(manifest, home, settings.home, tick), *_databases(manifest, home)]
        lines += _originals(manifest, arrived, settings.home, tick) if originals else []
        if manifest.postgres is not None:
            lines += _postgres(settings, manifest.postgres, arrived / STAGE / DUMP, tick)
        lines += _views(home)
    return Drill(found.id, manifest.created_at, tuple(lines), time.monotonic() - started)


def _tables(manifest: Manifest, home: Path, live: Path, tick: Tick) -> Iterator[Line]:
    digests = Digests()
    for table in manifest.tables:
        tick()
        shown = f"{table.rows} rows (v{table.version})"
        now, alike = _live(table, live, digests)
        try:
            restored = table_facts(home, table.path, digests=Digests())
            rows = read_rows(home, table.path, restored.version)
        except Exception as error:  # whatever keeps a table from being read is the finding
            yield Line("table", table.path, now, shown, "cannot be read", f"{type(error).__name__}: {error}")
            continue
        verdict = SAME
        if (restored.version, rows) != (table.version, table.rows):
            verdict = "other rows"
        elif restored != table:
            verdict = "other content"
        elif not alike:
            verdict = "the installation has other content at this version"
        yield Line("table", table.path, now, shown, f"{rows} rows (v{restored.version})", verdict)
    known = {table.path for table in manifest.tables}
    for log in sorted(home.glob("*/*/_delta_log")):
        if (path := str(log.parent.relative_to(home))) not in known:
            yield Line("table", path, "", "none", "there", "not in the list")


def _live(table: TableFacts, live: Path, digests: Digests) -> tuple[str, bool]:
    """What the installation has now, and whether it is the same at the snapshot's version, as far as it has that."""
    try:
        now = table_facts(live, table.path, digests=digests)
    except FileNotFoundError:
        return "none", True
    shown = f"{now.rows} rows (v{now.version})"
    try:
        then = now if now.version == table.version else table_facts(live, table.path, table.version, digests)
    except FileNotFoundError:  # it has moved on
        return shown, True
    return shown, then == table


def _databases(manifest: Manifest, home: Path) -> Iterator[Line]:
    for database in manifest.databases:
        shown = f"{sum(database.rows.values())} rows"
        try:
            found = database_facts(home / database.path, database.path)
        except (OSError, sqlite3.Error) as error:
            yield Line("database", database.path, "", shown, "cannot be read", str(error))
            continue
        verdict = SAME if found == database else "other rows" if found.rows != database.rows else "other content"
        yield Line("database", database.path, "", shown, f"{sum(found.rows.values())} rows", verdict)


def _originals(manifest: Manifest, arrived: Path, live: Path, tick: Tick) -> Iterator[Line]:
    count, damaged = damaged_originals(arrived, tick)
    verdict = SAME
    if damaged:
        verdict = f"{len(damaged)} damaged: {', '.join(damaged[:3])}"
    elif count < manifest.originals:  # more: taken in between the instant and the reading
        verdict = f"{manifest.originals - count} missing"
    now = sum(1 for path in (live / "originals").rglob("*") if path.is_file())
    yield Line("originals", "originals", f"{now} files", f"{manifest.originals} files", f"{count} files", verdict)


def _postgres(settings: Settings, expected: PostgresFacts, dump: Path, tick: Tick) -> Iterator[Line]:
    live = postgres.counts()
    try:
        with postgres.scratch_database() as scratch:
            postgres.load(settings, dump, scratch, tick)
            tick()
            found = postgres.facts(scratch)
    except MediaPipelineError as error:
        yield Line("postgres", "dagster", "", f"{len(expected.tables)} tables", "cannot be restored", str(error))
        return
    for name, rows in (("runs", "runs"), ("partitions", "dynamic_partitions")):
        want, have = getattr(expected, name), getattr(found, name)
        verdict = SAME if want == have else "other number"
        yield Line("dagster", name, str(live.get(rows, 0)), str(want), str(have), verdict)
    for name in sorted(expected.tables.keys() | found.tables.keys()):
        was, came = expected.tables.get(name), found.tables.get(name)
        verdict = SAME
        if was is None or came is None or was.rows != came.rows:
            verdict = "other rows"
        elif was.digest != came.digest:
            verdict = "other content"
        old, new = (f"{side.rows} rows" if side else "none" for side in (was, came))
        yield Line("postgres", name, f"{live.get(name, 0)} rows", old, new, verdict)


def _views(home: Path) -> Iterator[Line]:
    """All views of the restored home answer. Last: opening a home writes to it."""
    from media_pipeline.execution.pipeline import Pipeline

    try:
        with closing(Pipeline(load_settings(home=home))) as pipeline, pipeline.catalog.connect() as connection:
            names = pipeline.catalog.names
            for name in names:
                connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608 - names of ours
    except Exception as error:  # whatever keeps the home from answering is the finding
        yield Line("views", "all", "", "", "do not answer", f"{type(error).__name__}: {error}")
        return
    yield Line("views", "all", "", "", f"{len(names)} answer", SAME)
