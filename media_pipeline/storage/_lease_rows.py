"""What a lease is, and its rows in SQLite: types and statements of `leases`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import Any, Literal

State = Literal["intent", "booting", "ready", "busy", "idle", "closing", "closed"]
Source = Literal["meter", "charges"]

VERSION = 1
DDL = """
CREATE TABLE IF NOT EXISTS installation (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY,
    label TEXT NOT NULL UNIQUE,
    instance_id INTEGER,
    offer_id INTEGER NOT NULL,
    machine_id INTEGER NOT NULL,
    gpu TEXT NOT NULL,
    country TEXT,
    image TEXT NOT NULL,
    usd_per_hour REAL NOT NULL,
    disk_usd_per_hour REAL NOT NULL,
    usd_per_gb_in REAL NOT NULL,
    usd_per_gb_out REAL NOT NULL,
    disk_gb REAL NOT NULL,
    is_datacenter INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intent', 'booting', 'ready', 'busy', 'idle', 'closing', 'closed')),
    run_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    reserved_usd REAL NOT NULL,
    charged_usd REAL,
    opened_at REAL NOT NULL,
    running_at REAL,
    ready_at REAL,
    renewed_at REAL NOT NULL,
    idle_until REAL,
    closed_at REAL,
    settled_at REAL,
    host TEXT,
    port INTEGER,
    reason TEXT,
    is_bad INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS leases_open ON leases(state) WHERE state <> 'closed';
CREATE TABLE IF NOT EXISTS spending (
    lease_id TEXT NOT NULL REFERENCES leases(lease_id),
    run_id TEXT NOT NULL,
    day TEXT NOT NULL,  -- UTC, YYYY-MM-DD
    source TEXT NOT NULL CHECK (source IN ('meter', 'charges')),
    usd REAL NOT NULL,
    PRIMARY KEY (lease_id, run_id, day, source)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spending_day ON spending(day);
CREATE INDEX IF NOT EXISTS spending_run ON spending(run_id);
CREATE TABLE IF NOT EXISTS notices (
    name TEXT PRIMARY KEY,
    at REAL NOT NULL,
    text TEXT NOT NULL,
    told_at REAL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt to rent a machine. Times in seconds since 1970, money in US dollars."""

    lease_id: str
    label: str
    instance_id: int | None  # None: asked for, and no answer is known
    offer_id: int
    machine_id: int
    gpu: str
    country: str | None
    image: str
    usd_per_hour: float  # running, disk included
    disk_usd_per_hour: float  # from its creation on, running or not
    usd_per_gb_in: float
    usd_per_gb_out: float
    disk_gb: float
    is_datacenter: bool
    state: State  # ready: reachable and being set up; busy: a run has it
    run_id: str  # that has it or had it last
    owner: str  # `processes.signature` of who looks after it
    reserved_usd: float  # that it may cost, all in all, as far as was decided
    spent_usd: float  # booked so far
    charged_usd: float | None  # by the provider's books
    opened_at: float
    running_at: float | None
    ready_at: float | None  # from when on its worker answered; None: it never did
    renewed_at: float  # when its owner last said that it looks after it, and booked what it cost
    idle_until: float | None
    closed_at: float | None
    settled_at: float | None  # when what was booked was made equal to the provider's books
    host: str | None
    port: int | None
    reason: str | None  # why it was closed, or is to be
    is_bad: bool  # the machine failed: it is not rented again soon

    @property
    def is_open(self) -> bool:
        return self.state != "closed"

    def unattended_usd(self, now: float) -> float:
        """What it has cost since its owner last booked something."""
        rate = self.disk_usd_per_hour if self.running_at is None else self.usd_per_hour
        return max(0.0, now - self.renewed_at) / 3600 * rate


@dataclass(frozen=True, slots=True)
class Used:
    """Spent and reserved, of a run, of today and of this month (UTC)."""

    run_usd: float
    day_usd: float
    month_usd: float


_ROUNDING_USD = 1e-9  # sums of floating-point numbers must not refuse what fits exactly


@dataclass(frozen=True, slots=True)
class Caps:
    """What may be spent."""

    run_usd: float
    day_usd: float
    month_usd: float

    def room(self, used: Used) -> float:
        """Dollars that may still be reserved; negative where a limit was lowered or charges were higher."""
        return min(cap - have for _, cap, have, _ in self._each(used)) + _ROUNDING_USD

    def binding(self, used: Used) -> str:
        """The limit with the least room: run, day or month."""
        return min(self._each(used), key=lambda each: each[1] - each[2])[0]

    def refusal(self, used: Used, usd: float) -> tuple[str, str]:
        """Cause and remedy: the limit with the least room, which `usd` more does not fit into."""
        name, cap, have, setting = min(self._each(used), key=lambda each: each[1] - each[2])
        cause = (
            f"of the ${cap:.2f} that a {name} may cost, ${have:.2f} are spent or reserved and ${usd:.2f} more needed"
        )
        return cause, f"raise MEDIA_PIPELINE_GPU__{setting}"

    def _each(self, used: Used) -> tuple[tuple[str, float, float, str], ...]:
        return (
            ("run", self.run_usd, used.run_usd, "MAX_USD_PER_RUN or --max-usd"),
            ("day", self.day_usd, used.day_usd, "MAX_USD_PER_DAY or wait for tomorrow (UTC)"),
            ("month", self.month_usd, used.month_usd, "MAX_USD_PER_MONTH or wait for the next month (UTC)"),
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people are to be told of once."""

    name: str
    at: float
    text: str
    told_at: float | None


_STORED = tuple(f.name for f in fields(Lease) if f.name != "spent_usd")
SELECT = f"""
    SELECT {", ".join(_STORED)}, (SELECT coalesce(sum(usd), 0) FROM spending AS s WHERE s.lease_id = leases.lease_id)
    FROM leases
"""  # noqa: S608 - column names of this module


def day(at: float) -> str:
    """The day (UTC) of a time in seconds since 1970: 2026-11-30. Its first seven characters are the month."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def used(db: Connection, run_id: str, now: float) -> Used:
    """What open leases may still spend counts for today: it may be spent before midnight."""
    today = day(now)
    left = db.execute(
        """
        WITH open AS (
            SELECT run_id, max(0, reserved_usd - coalesce(
                (SELECT sum(usd) FROM spending AS s WHERE s.lease_id = leases.lease_id), 0)) AS usd
            FROM leases WHERE state <> 'closed'
        )
        SELECT coalesce(sum(usd), 0), coalesce(sum(usd) FILTER (WHERE run_id = ?), 0) FROM open
        """,
        (run_id,),
    ).fetchone()

    def booked(where: str, value: str) -> float:
        return float(db.execute(f"SELECT coalesce(sum(usd), 0) FROM spending WHERE {where}", (value,)).fetchone()[0])  # noqa: S608

    return Used(
        run_usd=booked("run_id = ?", run_id) + left[1],
        day_usd=booked("day = ?", today) + left[0],
        month_usd=booked("substr(day, 1, 7) = ?", today[:7]) + left[0],
    )


def book(db: Connection, lease_id: str, usd: float, source: Source, at: float) -> None:
    if usd:
        db.execute(
            "INSERT INTO spending SELECT lease_id, run_id, ?, ?, ? FROM leases WHERE lease_id = ? "
            "ON CONFLICT DO UPDATE SET usd = usd + excluded.usd",
            (day(at), source, usd, lease_id),
        )


def one(db: Connection, lease_id: str) -> Lease:
    return as_lease(db.execute(f"{SELECT} WHERE lease_id = ?", (lease_id,)).fetchone())


def as_lease(row: tuple[Any, ...]) -> Lease:
    values = dict(zip((*_STORED, "spent_usd"), row, strict=True))
    flags = {name: bool(values[name]) for name in ("is_datacenter", "is_bad")}
    return Lease(**{**values, **flags})


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """As users see it: moments in place of seconds, and the offer under the name of the view."""
    moments = {n: datetime.fromtimestamp(v, UTC) for n, v in row.items() if n.endswith("_at") and v is not None}
    return {**row, **moments, "offer": row["offer_id"]}
