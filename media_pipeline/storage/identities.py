"""What the user decided about identities (persons, voices): one SQLite file.

Names belong to ids. A *pin* says whose a track is; it remembers where the track was seen, so that it holds when the
medium is analysed anew and tracks are numbered otherwise. Tracks pinned to one identity are one person, those pinned
to different ones are not: the must-link and cannot-link constraints of Wagstaff et al. (2001), but by name. An *alias*
leads from the id of an identity that was merged to the one it is part of now, for good. A *sample* is the embedding
of a recording or picture by which an identity was enrolled. `log` says who was changed when, and how.

A decision is one transaction here, marked pending until the tables show it: a process killed in between leaves the
decision, and whoever comes next carries it out.
"""

from __future__ import annotations

import json
import sqlite3
import time
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.storage.layout import Layout
from media_pipeline.storage.schemas import IDENTITIES
from media_pipeline.storage.sqlite import Database, chunks, marks

SCHEMA_VERSION = 1

_DDL = """
CREATE TABLE IF NOT EXISTS names (
    kind TEXT NOT NULL,
    identity_id TEXT NOT NULL,
    name TEXT NOT NULL,
    folded TEXT NOT NULL,          -- as names are compared
    PRIMARY KEY (kind, identity_id),
    UNIQUE (kind, folded)
);
CREATE TABLE IF NOT EXISTS pins (
    pin_id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    media_id TEXT NOT NULL,
    track TEXT NOT NULL,           -- JSON: a number or a label; as it was numbered last
    at_s REAL,
    box TEXT,                      -- JSON: x1, y1, x2, y2
    identity_id TEXT NOT NULL,
    pending INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS pins_media ON pins (kind, media_id);
CREATE INDEX IF NOT EXISTS pins_identity ON pins (kind, identity_id);
CREATE TABLE IF NOT EXISTS aliases (
    kind TEXT NOT NULL,
    from_id TEXT NOT NULL,
    to_id TEXT NOT NULL,
    pending INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (kind, from_id)
);
CREATE TABLE IF NOT EXISTS samples (
    sample_id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    identity_id TEXT NOT NULL,
    source TEXT NOT NULL,          -- file name
    model TEXT NOT NULL,
    vector BLOB NOT NULL,          -- float32, little-endian
    UNIQUE (kind, identity_id, model, vector)
);
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,           -- microseconds since 1970
    kind TEXT NOT NULL,
    action TEXT NOT NULL,
    identity_id TEXT NOT NULL,
    details TEXT NOT NULL          -- JSON
);
"""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a track was seen best."""

    at_s: float | None  # seconds; null where the medium has no time
    box: tuple[float, float, float, float] | None  # xyxy in pixels as displayed; None for a voice


@dataclass(frozen=True, slots=True)
class Pin:
    """This track is of this identity: the user said so."""

    media_id: str
    track: int | str
    anchor: Anchor
    identity_id: str
    pin_id: int | None = None  # None: not stored yet


@dataclass(frozen=True, slots=True)
class Sample:
    """What an identity was enrolled from."""

    identity_id: str
    source: str  # file name
    model: str
    vector: npt.NDArray[np.float32]  # shape (dimension,), L2-normalised


@dataclass(frozen=True, slots=True)
class Event:
    """One decision."""

    at: datetime  # UTC
    action: str  # name, unname, merge, split, enrol
    identity_id: str
    details: dict[str, Any]


class Decisions:
    """The user's decisions. Safe under concurrent threads and processes."""

    def __init__(self, file: Path) -> None:
        self._db = Database(file, _DDL, version=SCHEMA_VERSION)

    @classmethod
    def of(cls, layout: Layout) -> Decisions:
        return cls(layout.home / "identities.sqlite")

    def close(self) -> None:
        self._db.close()

    # -- asking --------------------------------------------------------------------------------------------------

    def names(self, kind: str) -> dict[str, str]:
        """id -> name of the identities that have one."""
        return dict(self._db.query("SELECT identity_id, name FROM names WHERE kind = ?", [kind]))

    def named(self, kind: str, name: str) -> str | None:
        """The id of the identity of this name, written in small or capital letters."""
        rows = self._db.query("SELECT identity_id FROM names WHERE kind = ? AND folded = ?", [kind, fold(name)])
        return rows[0][0] if rows else None

    def current(self, kind: str, identity_id: str) -> str:
        """The id, or that of the identity it was merged into."""
        rows = self._db.query("SELECT to_id FROM aliases WHERE kind = ? AND from_id = ?", [kind, identity_id])
        return rows[0][0] if rows else identity_id

    def decided(self, kind: str) -> set[str]:
        """Identities that carry a decision: no computation may join or part them."""
        query = " UNION ".join(f"SELECT identity_id FROM {t} WHERE kind = ?1" for t in ("names", "pins", "samples"))  # noqa: S608
        return {row[0] for row in self._db.query(query, [kind])}

    def known(self, kind: str, ids: Sequence[str]) -> set[str]:
        """Those of the ids that some decision speaks of."""
        found: set[str] = set()
        for chunk in chunks(ids):
            for table, column in _ID_COLUMNS:
                query = f"SELECT {column} FROM {table} WHERE kind = ? AND {column} IN ({marks(chunk)})"  # noqa: S608
                found.update(row[0] for row in self._db.query(query, [kind, *chunk]))
        return found

    def pins(self, kind: str, media_ids: Collection[str]) -> list[Pin]:
        """The pins on these media, the oldest first."""
        found = [
            _pin(row)
            for chunk in chunks(list(media_ids))
            for row in self._db.query(f"{_PINS} AND media_id IN ({marks(chunk)})", [kind, *chunk])
        ]
        return sorted(found, key=lambda pin: pin.pin_id or 0)

    def samples(self, kind: str, model: str) -> list[Sample]:
        """What identities were enrolled from; embeddings of other models cannot be compared and are left out."""
        query = "SELECT identity_id, source, model, vector FROM samples WHERE kind = ? AND model = ? ORDER BY sample_id"
        return [Sample(i, s, m, np.frombuffer(v, "<f4")) for i, s, m, v in self._db.query(query, [kind, model])]

    def all_samples(self) -> list[tuple[str, str, npt.NDArray[np.float32]]]:
        """(kind, identity, vector) of everything that was enrolled, of whatever model."""
        rows = self._db.query("SELECT kind, identity_id, vector FROM samples ORDER BY sample_id")
        return [(kind, identity, np.frombuffer(vector, "<f4")) for kind, identity, vector in rows]

    def pending(self, kind: str) -> tuple[list[Pin], dict[str, str]]:
        """Decisions that the tables may not show yet: pins, and ids that became others."""
        pins = [_pin(row) for row in self._db.query(f"{_PINS} AND pending = 1 ORDER BY pin_id", [kind])]
        aliases = self._db.query("SELECT from_id, to_id FROM aliases WHERE kind = ? AND pending = 1", [kind])
        return pins, dict(aliases)

    def events(self, kind: str, identity_id: str | None = None) -> list[Event]:
        """What was decided when, the oldest first; of one identity or of all."""
        query, values = "SELECT at, action, identity_id, details FROM log WHERE kind = ?", [kind]
        if identity_id is not None:
            query, values = query + " AND identity_id = ?", [kind, identity_id]
        rows = self._db.query(query + " ORDER BY seq", values)
        return [Event(datetime.fromtimestamp(at / 1e6, UTC), action, i, json.loads(d)) for at, action, i, d in rows]

    def table(self) -> pa.Table:
        """Every identity with a name or a sample, for SQL (schema `IDENTITIES`)."""
        rows = self._db.query(
            "SELECT kind, identity_id, max(name), sum(samples) FROM ("
            "SELECT kind, identity_id, name, 0 AS samples FROM names "
            "UNION ALL SELECT kind, identity_id, NULL, 1 FROM samples) GROUP BY kind, identity_id ORDER BY 1, 2"
        )
        return pa.Table.from_pylist([dict(zip(IDENTITIES.names, row, strict=True)) for row in rows], IDENTITIES)

    # -- deciding ------------------------------------------------------------------------------------------------

    def name(self, kind: str, identity_id: str, name: str, pins: Sequence[Pin]) -> None:
        """Gives an identity a name, which must be free, and pins its clearest tracks so that the name stays there."""
        with self._db.write() as db:
            _set_name(db, kind, identity_id, name)
            _add_pins(db, kind, pins)
            _log(db, kind, "name", identity_id, {"name": name})

    def unname(self, kind: str, identity_id: str) -> None:
        """Takes the name away, and the samples that were enrolled under it."""
        with self._db.write() as db:
            db.execute("DELETE FROM names WHERE kind = ? AND identity_id = ?", (kind, identity_id))
            db.execute("DELETE FROM samples WHERE kind = ? AND identity_id = ?", (kind, identity_id))
            _log(db, kind, "unname", identity_id, {})

    def merge(self, kind: str, into: str, others: Sequence[str], pins: Sequence[Pin]) -> None:
        """The others become `into`. Its name stays; where it has none, the first name among the others is taken."""
        with self._db.write() as db:
            names = dict(db.execute("SELECT identity_id, name FROM names WHERE kind = ?", (kind,)).fetchall())
            for other in others:
                for table, column in _FOLLOWING:
                    db.execute(
                        f"UPDATE OR REPLACE {table} SET {column} = ? WHERE kind = ? AND {column} = ?",  # noqa: S608
                        (into, kind, other),
                    )
                db.execute("DELETE FROM names WHERE kind = ? AND identity_id = ?", (kind, other))
                db.execute(
                    "INSERT OR REPLACE INTO aliases (kind, from_id, to_id) VALUES (?, ?, ?)", (kind, other, into)
                )
            db.execute("DELETE FROM aliases WHERE kind = ? AND from_id = to_id", (kind,))
            taken = [names[other] for other in others if other in names]
            if into not in names and taken:
                _set_name(db, kind, into, taken[0])
            _add_pins(db, kind, pins)
            _log(db, kind, "merge", into, {"others": list(others), "names": taken})

    def split(self, kind: str, identity_id: str, fresh: str, pins: Sequence[Pin]) -> None:
        """Some tracks of an identity are someone else's: `pins` say which, and which are its own."""
        with self._db.write() as db:
            _add_pins(db, kind, pins)
            moved = [[pin.media_id, pin.track] for pin in pins if pin.identity_id == fresh]
            _log(db, kind, "split", identity_id, {"into": fresh, "tracks": moved})

    def enrol(self, kind: str, sample: Sample, name: str) -> None:
        """A sample of an identity, which gets this name."""
        with self._db.write() as db:
            _set_name(db, kind, sample.identity_id, name)
            vector = np.ascontiguousarray(sample.vector, "<f4").tobytes()
            db.execute(
                "INSERT OR IGNORE INTO samples (kind, identity_id, source, model, vector) VALUES (?, ?, ?, ?, ?)",
                (kind, sample.identity_id, sample.source, sample.model, vector),
            )
            _log(db, kind, "enrol", sample.identity_id, {"name": name, "source": sample.source})

    def renumber(self, tracks: Sequence[tuple[int, int | str]]) -> None:
        """Pins (by `pin_id`) whose tracks have other numbers since their medium was analysed anew."""
        if tracks:
            with self._db.write() as db:
                db.executemany("UPDATE pins SET track = ? WHERE pin_id = ?", [(json.dumps(t), i) for i, t in tracks])

    def settle(self, kind: str, pins: Sequence[Pin], aliases: Collection[str]) -> None:
        """The tables show these pending decisions now."""
        with self._db.write() as db:
            db.executemany("UPDATE pins SET pending = 0 WHERE pin_id = ?", [(pin.pin_id,) for pin in pins])
            db.executemany(
                "UPDATE aliases SET pending = 0 WHERE kind = ? AND from_id = ?", [(kind, alias) for alias in aliases]
            )

    def forget(self, media_id: str) -> None:
        """Erase what was decided about tracks of a medium, from the log too."""
        with self._db.write() as db:
            db.execute("DELETE FROM pins WHERE media_id = ?", (media_id,))
            _erase_from_log(db, [media_id])

    def forget_identity(self, kind: str, identity_id: str) -> int:
        """Erase every trace of an identity: name, pins, samples, the ids that were merged into it, and its log.

        Returns the number of rows that are gone.
        """
        with self._db.write() as db:
            merged = db.execute("SELECT from_id FROM aliases WHERE kind = ? AND to_id = ?", (kind, identity_id))
            ids = [identity_id, *(alias for (alias,) in merged.fetchall())]
            before = db.total_changes
            for table, column in (*_ID_COLUMNS, ("log", "identity_id")):
                for each in ids:
                    db.execute(f"DELETE FROM {table} WHERE kind = ? AND {column} = ?", (kind, each))  # noqa: S608
            gone = db.total_changes - before
            _erase_from_log(db, ids)
        return gone


# Where ids stand: those that follow when an identity becomes part of another, and the others.
_FOLLOWING = (("pins", "identity_id"), ("samples", "identity_id"), ("aliases", "to_id"))
_ID_COLUMNS = (*_FOLLOWING, ("names", "identity_id"), ("aliases", "from_id"))
_PINS = "SELECT media_id, track, at_s, box, identity_id, pin_id FROM pins WHERE kind = ?"


def fold(name: str) -> str:
    """Names that differ in this are different; how a keyboard composes an accent makes no difference."""
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())


def _pin(row: Sequence[Any]) -> Pin:
    media_id, track, at_s, box, identity_id, pin_id = row
    anchor = Anchor(at_s, tuple(json.loads(box)) if box else None)
    return Pin(media_id, json.loads(track), anchor, identity_id, pin_id)


def _set_name(db: sqlite3.Connection, kind: str, identity_id: str, name: str) -> None:
    db.execute(
        "INSERT INTO names (kind, identity_id, name, folded) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (kind, identity_id) DO UPDATE SET name = excluded.name, folded = excluded.folded",
        (kind, identity_id, name, fold(name)),
    )


def _add_pins(db: sqlite3.Connection, kind: str, pins: Sequence[Pin]) -> None:
    """A later pin on a track takes the place of an earlier one."""
    for pin in pins:
        track = json.dumps(pin.track)
        db.execute("DELETE FROM pins WHERE kind = ? AND media_id = ? AND track = ?", (kind, pin.media_id, track))
        box = json.dumps(pin.anchor.box) if pin.anchor.box else None
        db.execute(
            "INSERT INTO pins (kind, media_id, track, at_s, box, identity_id) VALUES (?, ?, ?, ?, ?, ?)",
            (kind, pin.media_id, track, pin.anchor.at_s, box, pin.identity_id),
        )


def _log(db: sqlite3.Connection, kind: str, action: str, identity_id: str, details: dict[str, Any]) -> None:
    db.execute(
        "INSERT INTO log (at, kind, action, identity_id, details) VALUES (?, ?, ?, ?, ?)",
        (time.time_ns() // 1000, kind, action, identity_id, json.dumps(details, ensure_ascii=False)),
    )


def _erase_from_log(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    """What was decided about others stays in the log; there these media or identities are nobody's any more."""
    for each in ids:
        quoted = json.dumps(each)
        db.execute("UPDATE log SET details = replace(details, ?1, '\"erased\"') WHERE instr(details, ?1)", (quoted,))
