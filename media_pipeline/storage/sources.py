"""Which files were seen where, and which medium each is: one SQLite file.

Three tables. `media` has one row per content, in the order in which they came. `files` has one row per path, with the
stamp under which it was last looked at and what became of it (taken, waiting, refused); it is what lets a tick over
ten thousand known files hash nothing. `names` remembers every file name a content was seen under.

Paths are stored as the bytes they are, because file names need not be text; what callers get back is text with
undecodable bytes written as `\\xNN` (`shown`), fit for tables and screens. Any number of processes may use the file at
once, and a process killed at any instant leaves it consistent: every change is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from media_pipeline.storage._sources_sql import AGES, DDL, MEDIUM, UPSERT_FILE
from media_pipeline.storage.schemas import MEDIA_AGES, SOURCES
from media_pipeline.storage.sightings import LEFT_ALONE, Sighting, file_row, removed, stamp
from media_pipeline.storage.sqlite import Database, chunks, marks

HELD_UP = "held up"  # the note that says why the last run could not go on, whatever its media
MAX_ATTEMPTS = 3  # runs of a medium that are cut off before nobody asks for another
SCHEMA_VERSION = 2
# A tick every few seconds must not rewrite ten thousand rows; an hour is near enough for "last seen".
LAST_SEEN_EVERY_S = 3600
_UNSEEN = "state <> 'taken' AND last_seen < ?"


@dataclass(frozen=True, slots=True)
class KnownMedium:
    """One content, however many files hold it."""

    media_id: str
    partition_key: str
    name: str  # file name under which it was seen first; undecodable bytes as \xNN
    path: str  # where it was seen first, likewise
    stored: Path  # the original: our read-only copy, or the file itself where originals are linked
    bytes: int
    added_at: datetime  # UTC
    names: tuple[str, ...]  # every file name it was seen under, the first one first
    announced: bool  # Dagster knows its partition
    attempts: int  # runs that began on it and never ended
    linked_mtime_ns: int | None = None  # where linked: the modification time at intake
    original_removed_at: datetime | None = None  # UTC; by retention, and it has not come back since


def shown(path: str | bytes | Path) -> str:
    """A path as text that any table, screen or log accepts: undecodable bytes become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Sources:
    """The files seen and the media they are. Safe under concurrent threads and processes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._db = Database(file, DDL, version=SCHEMA_VERSION)

    def close(self) -> None:
        self._db.close()

    # -- files ---------------------------------------------------------------------------------------------------

    def unchanged(self, path: str | Path, stat: os.stat_result) -> str | None:
        """The medium of a path that was taken and has not changed since; None otherwise. Hashes nothing."""
        seen = self.look_up([os.fspath(path)]).get(os.fspath(path))
        return seen.media_id if seen and seen.state == "taken" and seen.stamp == stamp(stat) else None

    def look_up(self, paths: Sequence[str]) -> dict[str, Sighting]:
        """What is remembered of these paths; unknown ones are left out."""
        found: dict[str, Sighting] = {}
        for chunk in chunks(paths):
            for row in self._db.query(
                f"SELECT path, stamp, state, media_id, reason, since FROM files WHERE path IN ({marks(chunk)})",  # noqa: S608
                [os.fsencode(path) for path in chunk],
            ):
                found[os.fsdecode(row[0])] = Sighting(row[1], row[2], row[3], row[4], row[5] / 1e6)
        return found

    def known_sizes(self, sizes: Collection[int]) -> set[int]:
        """Those of these sizes in bytes that some medium has."""
        among = "SELECT DISTINCT bytes FROM media WHERE bytes IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._db.query(among, [json.dumps(list(sizes))])}

    def add(
        self,
        path: str | Path,
        stat: os.stat_result,
        *,
        media_id: str,
        partition_key: str,
        stored: Path,
        linked: bool = False,
    ) -> tuple[KnownMedium, bool]:
        """Remember that `path` holds this content.

        The original must be stored already: whoever sees the medium here may read it at once.

        Returns:
            the medium, and whether this call created it; a second name of known content is remembered with it.
        """
        now, name = _now_us(), os.fsencode(Path(path).name)
        with self._db.write() as db:
            created = (
                db.execute(
                    "INSERT INTO media (media_id, partition_key, name, path, stored, linked_mtime_ns, bytes, added_at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (media_id) DO NOTHING",
                    (
                        media_id,
                        self._free_key(db, partition_key, media_id),
                        name,
                        os.fsencode(path),
                        self._relative(stored),
                        stat.st_mtime_ns if linked else None,
                        stat.st_size,
                        now,
                    ),
                ).rowcount
                == 1
            )
            db.execute("INSERT OR IGNORE INTO names (media_id, name) VALUES (?, ?)", (media_id, name))
            db.execute(UPSERT_FILE, file_row(path, stat, "taken", now, media_id=media_id))
        return self.by_id([media_id])[media_id], created

    def relink(self, media_id: str, stored: Path, mtime_ns: int | None) -> None:
        """The original is now there; `mtime_ns` is None for a copy of ours."""
        with self._db.write() as db:
            db.execute(
                "UPDATE media SET stored = ?, linked_mtime_ns = ? WHERE media_id = ?",
                (self._relative(stored), mtime_ns, media_id),
            )
            db.execute("UPDATE removed_originals SET restored_at = ? WHERE media_id = ?", (_now_us(), media_id))

    def refuse(self, path: str | Path, stat: os.stat_result | None, reason: str) -> None:
        """Not to be looked at again until the file changes.

        Args:
            stat: None where it could not even be asked; what an erasure or retention left there stays noted
        """
        but_for = f" WHERE NOT ({LEFT_ALONE})" if stat is None else ""
        with self._db.write() as db:
            db.execute(UPSERT_FILE + but_for, file_row(path, stat, "refused", _now_us(), reason=reason))

    def refused(self) -> list[tuple[str, str]]:
        """(path as shown, reason) of every file refused."""
        rows = self._db.query("SELECT path, reason FROM files WHERE state = 'refused' ORDER BY path")
        return [(shown(path), reason) for path, reason in rows]

    def observe(self, files: Iterable[tuple[str, os.stat_result]]) -> None:
        """These files were seen and are not complete yet; the time since their last change is kept."""
        rows = [file_row(path, stat, "waiting", _now_us()) for path, stat in files]
        if rows:
            with self._db.write() as db:
                db.executemany(UPSERT_FILE, rows)

    def touch(self, paths: Sequence[str]) -> None:
        """These known files are still there. Writes nothing for those touched within the hour."""
        now = _now_us()
        stale = now - LAST_SEEN_EVERY_S * 1_000_000
        for chunk in chunks(paths):
            values = [os.fsencode(path) for path in chunk]
            condition = f"path IN ({marks(chunk)}) AND last_seen < ?"
            if self._db.query(f"SELECT 1 FROM files WHERE {condition} LIMIT 1", [*values, stale]):  # noqa: S608
                with self._db.write() as db:
                    db.execute(f"UPDATE files SET last_seen = ? WHERE {condition}", [now, *values, stale])  # noqa: S608

    def drop_vanished(self, folders: Collection[str] = (), *, older_than_s: float = 86_400) -> None:
        """Forget files that were waited for or refused and went away.

        What an erasure or retention refused must not come back with a folder that was not mounted for a while: it is
        forgotten only where one of these folders, which were looked through, is there without it (`removed`).
        """
        limit = _now_us() - int(older_than_s * 1e6)
        vanished = self._db.query(f"SELECT path, stamp, {LEFT_ALONE} FROM files WHERE {_UNSEEN}", [limit])  # noqa: S608
        gone = [path for path, _, left_alone in vanished if not left_alone]
        gone += removed(((path, last) for path, last, left_alone in vanished if left_alone), folders)
        if gone:
            with self._db.write() as db:
                for chunk in chunks(gone):
                    db.execute(f"DELETE FROM files WHERE path IN ({marks(chunk)}) AND {_UNSEEN}", [*chunk, limit])  # noqa: S608

    # -- media ---------------------------------------------------------------------------------------------------

    def by_id(self, media_ids: Collection[str]) -> dict[str, KnownMedium]:
        return {m.media_id: m for chunk in chunks(list(media_ids)) for m in self._media_in("media_id", chunk)}

    def by_partition(self, keys: Collection[str]) -> dict[str, KnownMedium]:
        return {m.partition_key: m for chunk in chunks(list(keys)) for m in self._media_in("partition_key", chunk)}

    def all_media(self, *, page: int = 1000) -> Iterator[KnownMedium]:
        """Every medium, in the order in which they came; may be consumed slowly without holding a lock."""
        last = -1
        while True:
            seqs = self._db.query("SELECT seq FROM media WHERE seq > ? ORDER BY seq LIMIT ?", [last, page])
            if not seqs:
                return
            yield from self._media("WHERE seq > ? AND seq <= ? ORDER BY seq", [last, seqs[-1][0]])
            last = seqs[-1][0]

    def newest_ids(self, limit: int = -1) -> list[str]:
        """Every medium, or so many, the latest first."""
        found = self._db.query("SELECT media_id FROM media ORDER BY seq DESC LIMIT ?", [limit])
        return [media_id for (media_id,) in found]

    def count(self) -> int:
        return int(self._db.query("SELECT count(*) FROM media")[0][0])

    def unannounced(self, limit: int) -> list[KnownMedium]:
        """Media whose partition Dagster does not know yet, oldest first."""
        return self._media("WHERE announced = 0 ORDER BY added_at, seq LIMIT ?", [limit])

    def interrupted(self, *, max_attempts: int | None = None) -> list[KnownMedium]:
        """Media whose run began and never ended; those only to whom that happened less often than `max_attempts`."""
        most = "" if max_attempts is None else "AND attempts < ?"
        values = [] if max_attempts is None else [max_attempts]
        return self._media(f"WHERE announced = 1 AND attempts >= 1 {most} ORDER BY added_at, seq", values)

    def given_up(self, *, max_attempts: int) -> list[KnownMedium]:
        """Media whose run was cut off so often that nobody asks for another."""
        return self._media("WHERE attempts >= ? ORDER BY added_at, seq", [max_attempts])

    def mark_announced(self, media_ids: Collection[str]) -> None:
        self._update_media("announced = 1", media_ids)

    def start_attempt(self, media_ids: Collection[str]) -> None:
        """A run begins on these media. One that is killed never says that it ended, and the count stays."""
        self._update_media("attempts = attempts + 1", media_ids)

    def end_attempt(self, media_ids: Collection[str]) -> None:
        """A run ended on these media, well or not: they do not kill."""
        self._update_media("attempts = 0", media_ids)

    def release(self, media_ids: Collection[str]) -> None:
        """Their run was stopped before it was through, and not by them: as if it had not begun."""
        self._update_media("announced = 0, attempts = 0", media_ids)

    def original_removed(self, media_ids: Collection[str]) -> None:
        """Retention has removed our copies; what was found in them stays."""
        now = _now_us()
        with self._db.write() as db:
            rows = [(media_id, now) for media_id in media_ids]
            db.executemany("INSERT OR REPLACE INTO removed_originals (media_id, removed_at) VALUES (?, ?)", rows)

    def without_original(self) -> list[str]:
        """Media whose original retention has removed."""
        return [i for (i,) in self._db.query("SELECT media_id FROM removed_originals WHERE restored_at IS NULL")]

    def begin_letting_go(self, media_ids: Collection[str]) -> None:
        """From now on these media are on their way out, whatever becomes of the process that removes them."""
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO leaving VALUES (?)", [(media_id,) for media_id in media_ids])

    def leaving(self) -> list[str]:
        """Media whose removal has begun."""
        return [media_id for (media_id,) in self._db.query("SELECT media_id FROM leaving")]

    def let_go(self, media_ids: Collection[str], reason: str) -> None:
        """Forget these media for good; files of theirs that stay where they are are not taken again by themselves."""
        with self._db.write() as db:
            for chunk in chunks(list(media_ids)):
                here = f"media_id IN ({marks(chunk)})"
                refused = f"UPDATE files SET state = 'refused', media_id = NULL, reason = ? WHERE {here}"  # noqa: S608
                db.execute(refused, [reason, *chunk])
                db.execute(f"DELETE FROM media WHERE {here}", chunk)  # noqa: S608

    def ages(self) -> pa.Table:
        """Every medium in the order in which they came (schema `MEDIA_AGES`), set-based."""
        columns: list[Sequence[Any]] = list(zip(*self._db.query(AGES), strict=True)) or [()] * len(MEDIA_AGES)
        columns[2] = [shown(name) for name in columns[2]]
        flags = [[bool(flag) for flag in column] for column in columns[6:]]
        arrays = [pa.array(v, type=f.type) for v, f in zip([*columns[:6], *flags], MEDIA_AGES, strict=True)]
        return pa.Table.from_arrays(arrays, schema=MEDIA_AGES)

    def paths(self, media_id: str) -> tuple[str, ...]:
        """Where a medium was seen last."""
        rows = self._db.query("SELECT path FROM files WHERE media_id = ?", [media_id])
        return tuple(os.fsdecode(path) for (path,) in rows)

    def forget(self, media_id: str) -> None:
        """Erase every trace of a medium; a file of it that stays in a watched folder will be taken again."""
        with self._db.write() as db:
            db.execute("DELETE FROM notes WHERE value IN (SELECT path FROM files WHERE media_id = ?)", (media_id,))
            db.execute("DELETE FROM notes WHERE key = ?", (HELD_UP,))  # its text may name the medium
            db.execute("DELETE FROM media WHERE media_id = ?", (media_id,))

    # -- notes and views -----------------------------------------------------------------------------------------

    def note(self, key: str) -> str | None:
        """A path or a text remembered for another process."""
        rows = self._db.query("SELECT value FROM notes WHERE key = ?", [key])
        return os.fsdecode(rows[0][0]) if rows else None

    def set_note(self, key: str, value: str | None) -> None:
        if self.note(key) == value:
            return
        with self._db.write() as db:
            if value is None:
                db.execute("DELETE FROM notes WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, os.fsencode(value)))

    def table(self) -> pa.Table:
        """Every file seen, for the SQL view `sources` (schema `SOURCES`)."""
        rows = self._db.query(
            "SELECT f.media_id, path, bytes, modified_at, first_seen, last_seen, state, reason, removed_at "
            "FROM files AS f LEFT JOIN removed_originals AS r ON r.media_id = f.media_id AND r.restored_at IS NULL "
            "ORDER BY path"
        )
        columns = list(zip(*rows, strict=True)) if rows else [()] * 9
        ids, paths, sizes, modified, first, last, states, reasons, removed = columns
        names = [shown(os.path.basename(path)) for path in paths]  # noqa: PTH119 - ten times as fast as Path, for 100,000
        data = [ids, [shown(path) for path in paths], names, sizes, modified, first, last, states, reasons, removed]
        arrays = [pa.array(values, type=field.type) for values, field in zip(data, SOURCES, strict=True)]
        return pa.Table.from_arrays(arrays, schema=SOURCES)

    # -- inside --------------------------------------------------------------------------------------------------

    def _media(self, clause: str, values: Sequence[object]) -> list[KnownMedium]:
        rows = self._db.query(f"SELECT {MEDIUM} {clause}", values)
        names: dict[str, list[str]] = {}
        for chunk in chunks([row[0] for row in rows]):
            query = f"SELECT media_id, name FROM names WHERE media_id IN ({marks(chunk)}) ORDER BY rowid"  # noqa: S608
            for media_id, name in self._db.query(query, chunk):
                names.setdefault(media_id, []).append(shown(name))
        return [
            KnownMedium(
                media_id=row[0],
                partition_key=row[1],
                name=shown(row[2]),
                path=shown(row[3]),
                stored=self._file.parent / os.fsdecode(row[4]),
                linked_mtime_ns=row[5],
                bytes=row[6],
                added_at=datetime.fromtimestamp(row[7] / 1e6, UTC),
                names=tuple(names.get(row[0], ())),
                announced=bool(row[8]),
                attempts=row[9],
                original_removed_at=datetime.fromtimestamp(row[10] / 1e6, UTC) if row[10] else None,
            )
            for row in rows
        ]

    def _media_in(self, column: str, values: Sequence[str]) -> list[KnownMedium]:
        return self._media(f"WHERE {column} IN ({marks(values)})", values)

    def _update_media(self, change: str, media_ids: Collection[str]) -> None:
        with self._db.write() as db:
            for chunk in chunks(list(media_ids)):
                db.execute(f"UPDATE media SET {change} WHERE media_id IN ({marks(chunk)})", chunk)  # noqa: S608

    def _free_key(self, db: sqlite3.Connection, key: str, media_id: str) -> str:
        # Twelve digits collide by chance never, but on purpose within minutes: 48 bits are 2^24 tries.
        taken = db.execute("SELECT media_id FROM media WHERE partition_key = ?", (key,)).fetchone()
        return key if taken is None or taken[0] == media_id else key.rpartition("~")[0] + "~" + media_id

    def _relative(self, stored: Path) -> bytes:
        home = self._file.parent
        return os.fsencode(stored.relative_to(home) if stored.is_relative_to(home) else stored)


def _now_us() -> int:
    return time.time_ns() // 1000
