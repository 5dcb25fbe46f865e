"""What people decided on media, alerts on their way, and how far the rules have come: one SQLite file.

Decisions are a log: entries are added, never changed. The newest approval or block of a medium that no later entry
undoes counts, whatever rules say. The file keeps that log to itself: changing an entry is refused by a trigger, and
removing one too, unless its medium is being erased.

Alerts wait here until they are delivered. One is written down before the verdict it tells of (`planned`), and released
after it (`pending`), so that a kill between the two neither loses nor invents an alert.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from media_pipeline.errors import UsageError
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.schemas import MODERATION_DECISIONS
from media_pipeline.storage.sqlite import Database, chunks, marks

Action = Literal["approve", "block", "note"]
VERDICT_OF = {"approve": "allow", "block": "block"}

_VERSION = 1
_DDL = """
CREATE TABLE IF NOT EXISTS decisions (
    decision_id INTEGER PRIMARY KEY AUTOINCREMENT,
    media_id TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('approve', 'block', 'note', 'undo')),
    decided_by TEXT NOT NULL,
    decided_at INTEGER NOT NULL,  -- microseconds since 1970
    reason TEXT,
    rules_version TEXT,
    rule_verdict TEXT,
    undoes INTEGER REFERENCES decisions(decision_id)
);
CREATE INDEX IF NOT EXISTS decisions_media ON decisions(media_id);
CREATE TABLE IF NOT EXISTS erasing (media_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS decisions_stay BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions are never changed'); END;
CREATE TRIGGER IF NOT EXISTS decisions_remain BEFORE DELETE ON decisions
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE media_id = OLD.media_id)
BEGIN SELECT RAISE(ABORT, 'decisions are removed with their medium only'); END;
CREATE TABLE IF NOT EXISTS alerts (
    alert_id INTEGER PRIMARY KEY AUTOINCREMENT,
    media_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    state TEXT NOT NULL,  -- planned, pending
    body TEXT NOT NULL,  -- JSON
    error TEXT,
    UNIQUE (media_id, channel, state)
);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = ", ".join(MODERATION_DECISIONS.names)
_STANDS = (
    "action IN ('approve', 'block') "
    "AND decision_id NOT IN (SELECT undoes FROM decisions WHERE undoes IS NOT NULL AND media_id = d.media_id)"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry of the log, in the order of `MODERATION_DECISIONS`."""

    decision_id: int
    media_id: str
    action: str  # approve, block, note, undo
    decided_by: str
    decided_at: datetime
    reason: str | None
    rules_version: str | None
    rule_verdict: str | None
    undoes: int | None


@dataclass(frozen=True, slots=True)
class Alert:
    """One medium that one channel has not been told of yet."""

    alert_id: int
    media_id: str
    body: dict[str, Any]


class ModerationStore:
    """The file of one home.

    Raises (from every method):
        StorageConflict, DiskFull: nothing has changed
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its log the mode of the file
        self._db = Database(file, _DDL, version=_VERSION)

    @classmethod
    def of(cls, layout: Layout) -> ModerationStore:
        return cls(layout.moderation)

    def close(self) -> None:
        self._db.close()

    # -- decisions ------------------------------------------------------------------------------------------------

    def decide(
        self,
        media_ids: Sequence[str],
        action: Action,
        by: str,
        reason: str | None,
        said: Mapping[str, tuple[str, str]],
    ) -> None:
        """Adds one entry per medium, all or none.

        Args:
            said: rules_version and verdict of the rules on each medium, where there are any
        """
        now = time.time_ns() // 1000
        rows = [(m, action, by, now, reason, *said.get(m, (None, None)), None) for m in media_ids]
        with self._db.write() as db:
            db.executemany(f"INSERT INTO decisions VALUES (NULL, {marks(rows[0])})", rows)  # noqa: S608 - marks

    def undo(self, media_ids: Sequence[str], by: str, reason: str | None) -> None:
        """Takes the decision that counts now back; the one before it counts again, where there is one.

        Raises:
            UsageError: nothing is decided on one of the media; nothing was undone.
        """
        now = time.time_ns() // 1000
        with self._db.write() as db:
            for media_id in media_ids:
                standing = db.execute(
                    f"SELECT max(decision_id) FROM decisions AS d WHERE media_id = ? AND {_STANDS}",  # noqa: S608
                    (media_id,),
                ).fetchone()[0]
                if standing is None:
                    raise UsageError(f"nobody has decided on {media_id}", "see `media-pipeline moderate show`")
                db.execute(
                    "INSERT INTO decisions VALUES (NULL, ?, 'undo', ?, ?, ?, NULL, NULL, ?)",
                    (media_id, by, now, reason, standing),
                )

    def decisions(self, media_id: str) -> list[Decision]:
        """The log of one medium, the oldest first."""
        rows = self._db.query(f"SELECT {_COLUMNS} FROM decisions WHERE media_id = ? ORDER BY 1", (media_id,))  # noqa: S608
        return [
            Decision(
                number, medium, action, by, datetime.fromtimestamp(at / 1e6, UTC), reason, version, verdict, undoes
            )
            for number, medium, action, by, at, reason, version, verdict, undoes in rows
        ]

    def decided(self, media_ids: Collection[str]) -> dict[str, str]:
        """Verdict of people by medium: allow or block; media nobody decided on are left out."""
        found: dict[str, str] = {}
        for part in chunks(sorted(media_ids)):
            rows = self._db.query(
                f"SELECT media_id, action, max(decision_id) FROM decisions AS d "  # noqa: S608 - marks
                f"WHERE media_id IN ({marks(part)}) AND {_STANDS} GROUP BY media_id",
                part,
            )
            found |= {media_id: VERDICT_OF[action] for media_id, action, _ in rows}
        return found

    def table(self) -> pa.Table:
        """The whole log, for the catalog."""
        rows = self._db.query(f"SELECT {_COLUMNS} FROM decisions ORDER BY decision_id")  # noqa: S608 - a constant
        columns = zip(*rows, strict=True) if rows else ([] for _ in MODERATION_DECISIONS)
        arrays = [pa.array(list(c), f.type) for c, f in zip(columns, MODERATION_DECISIONS, strict=True)]
        return pa.table(arrays, schema=MODERATION_DECISIONS)

    # -- alerts ---------------------------------------------------------------------------------------------------

    def plan_alerts(self, channels: Collection[str], bodies: Mapping[str, dict[str, Any]]) -> None:
        """Writes down what is to be told of these media once their verdicts are in the table."""
        rows = [(m, channel, json.dumps(body)) for m, body in bodies.items() for channel in channels]
        if rows:
            with self._db.write() as db:
                db.executemany(
                    "INSERT OR REPLACE INTO alerts (media_id, channel, state, body) VALUES (?, ?, 'planned', ?)", rows
                )

    def planned(self) -> list[str]:
        """Media of alerts whose verdict may not have reached the table: those of a run that was killed."""
        return [row[0] for row in self._db.query("SELECT DISTINCT media_id FROM alerts WHERE state = 'planned'")]

    def release_alerts(self, blocked: Collection[str]) -> None:
        """The verdicts are in the table: alerts on these media are to be sent, other planned ones were for nothing."""
        with self._db.write() as db:
            for part in chunks(sorted(blocked)):
                db.execute(
                    "UPDATE OR REPLACE alerts SET state = 'pending' "  # noqa: S608 - marks
                    f"WHERE state = 'planned' AND media_id IN ({marks(part)})",
                    part,
                )
            db.execute("DELETE FROM alerts WHERE state = 'planned'")

    def pending(self, channel: str, limit: int) -> list[Alert]:
        rows = self._db.query(
            "SELECT alert_id, media_id, body FROM alerts WHERE channel = ? AND state = 'pending' ORDER BY 1 LIMIT ?",
            (channel, limit),
        )
        return [Alert(alert_id, media_id, json.loads(body)) for alert_id, media_id, body in rows]

    def waiting(self) -> int:
        return int(self._db.query("SELECT count(*) FROM alerts WHERE state = 'pending'")[0][0])

    def delivered(self, alerts: Sequence[Alert]) -> None:
        with self._db.write() as db:
            db.executemany("DELETE FROM alerts WHERE alert_id = ?", [(alert.alert_id,) for alert in alerts])

    def drop_alerts(self, keep: Collection[str]) -> None:
        """Forgets alerts for channels that are not configured any more."""
        with self._db.write() as db:
            db.execute(f"DELETE FROM alerts WHERE channel NOT IN ({marks(list(keep))})", list(keep))  # noqa: S608

    def forget_alerts(self, media_ids: Collection[str]) -> None:
        """Drops what was to be told of these media."""
        with self._db.write() as db:
            db.executemany("DELETE FROM alerts WHERE media_id = ?", [(media_id,) for media_id in media_ids])

    # -- how far the rules have come ------------------------------------------------------------------------------

    def state(self, name: str) -> str | None:
        rows = self._db.query("SELECT value FROM state WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_state(self, values: Mapping[str, str]) -> None:
        with self._db.write() as db:
            db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", list(values.items()))

    # -- erasure --------------------------------------------------------------------------------------------------

    def forget_media(self, media_ids: Collection[str]) -> int:
        """Removes everything that names these media; returns the number of rows. `sqlite.compact` removes the bytes."""
        gone = 0
        with self._db.write() as db:
            for media_id in media_ids:
                db.execute("INSERT OR IGNORE INTO erasing VALUES (?)", (media_id,))
                for table in ("decisions", "alerts"):
                    gone += db.execute(f"DELETE FROM {table} WHERE media_id = ?", (media_id,)).rowcount  # noqa: S608
                db.execute("DELETE FROM erasing WHERE media_id = ?", (media_id,))
        return gone
