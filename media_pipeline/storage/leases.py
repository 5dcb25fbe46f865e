"""Rented machines and what they cost: one SQLite file per home.

A row is written before the machine is asked for, so a kill at any instant leaves nothing that this file does not know:
the label is in it, and the reaper finds the machine by its label. Money is booked by lease, run and day (UTC) as it is
spent; what an open lease may still spend is reserved, and both together never exceed a limit.

Nothing here names a medium.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from media_pipeline.errors import BudgetReached, RentalRefused
from media_pipeline.storage import _lease_rows as rows
from media_pipeline.storage._lease_rows import Caps, Lease, Notice, State, Used, day
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.schemas import GPU_COSTS, GPU_LEASES
from media_pipeline.storage.sqlite import Database, marks

_CHANGEABLE = {
    "instance_id",
    "state",
    "running_at",
    "ready_at",
    "idle_until",
    "usd_per_hour",
    "host",
    "port",
    "reason",
    "is_bad",
}
_OF_LEASE = ("instance_id", "offer_id", "gpu", "state", "reserved_usd", "opened_at", "closed_at", "reason")


class OverLimit(RentalRefused):
    """It would cost more than a limit leaves; names the limit, what is used of it, and the setting."""


class Leases:
    """The file of one home. Every method is one transaction, safe for threads and processes.

    Args:
        clock: seconds since 1970

    Raises (from every method):
        StorageConflict, DiskFull: nothing has changed
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its log the mode of the file
        self._db, self._clock = Database(file, rows.DDL, version=rows.VERSION), clock

    @classmethod
    def of(cls, layout: Layout) -> Leases:
        return cls(layout.leases)

    def close(self) -> None:
        self._db.close()

    @property
    def installation(self) -> str:
        """12 hex digits in the label of every machine of this home, made once."""
        with self._db.write() as db:
            db.execute(
                "INSERT INTO installation SELECT ? WHERE NOT EXISTS (SELECT 1 FROM installation)",
                (secrets.token_hex(6),),
            )
            return str(db.execute("SELECT id FROM installation").fetchone()[0])

    @property
    def prefix(self) -> str:
        """What the labels of this home's machines, and of no others, begin with."""
        return f"mp-{self.installation}-"

    # -- leases ---------------------------------------------------------------------------------------------------

    def reserve(self, caps: Caps, usd: float, *, run_id: str, owner: str, **terms: Any) -> Lease:
        """The intent to rent a machine, written down before it is asked for, and the money for it.

        Args:
            usd: what it may cost until more is reserved
            terms: the fields of `Lease` that describe the machine, from `offer_id` to `is_datacenter`

        Raises:
            OverLimit
        """
        lease_id, now = secrets.token_hex(6), self._clock()
        row = {
            "lease_id": lease_id,
            "label": f"{self.prefix}{lease_id}",
            "state": "intent",
            "run_id": run_id,
            "owner": owner,
            "reserved_usd": usd,
            "opened_at": now,
            "renewed_at": now,
            **terms,
        }
        with self._db.write() as db:
            used = rows.used(db, run_id, now)
            if usd > caps.room(used):
                raise OverLimit(*caps.refusal(used, usd))
            db.execute(
                f"INSERT INTO leases ({', '.join(row)}) VALUES ({marks(list(row))})",  # noqa: S608 - names of fields
                list(row.values()),
            )
            return rows.one(db, lease_id)

    def extend(self, lease_id: str, caps: Caps, *, needed: float, wanted: float) -> float:
        """Raises what a lease may cost, all in all, to `wanted`, or as far as the limits go; returns it.

        Raises:
            BudgetReached: not even `needed` is within the limits; nothing has changed.
        """
        with self._db.write() as db:
            lease = rows.one(db, lease_id)
            used = rows.used(db, lease.run_id, self._clock())
            have = max(lease.reserved_usd, lease.spent_usd)
            granted = min(wanted, have + max(0.0, caps.room(used)))
            if granted < needed:
                raise BudgetReached(*caps.refusal(used, needed - have))
            if granted > lease.reserved_usd:
                db.execute("UPDATE leases SET reserved_usd = ? WHERE lease_id = ?", (granted, lease_id))
            return max(granted, lease.reserved_usd)

    def update(self, lease_id: str, **changes: Any) -> bool:
        """Writes down what has become known of it; False where somebody has begun to close it: then nothing changes."""
        if unknown := changes.keys() - _CHANGEABLE:
            raise ValueError(f"not to be changed: {sorted(unknown)}")
        assigned = ", ".join(f"{name} = ?" for name in changes)
        allowed = (
            "state <> 'closed'" if changes.get("state") in (None, "closing") else "state NOT IN ('closing', 'closed')"
        )
        with self._db.write() as db:
            done = db.execute(
                f"UPDATE leases SET {assigned} WHERE lease_id = ? AND {allowed}",  # noqa: S608 - names checked above
                [*changes.values(), lease_id],
            )
            return done.rowcount == 1

    def renew(self, owner: str, cost: Mapping[str, float]) -> dict[str, State]:
        """Books what these leases have cost since the last time, and says that their owner is there.

        Returns:
            the state of those that are still open and this owner's
        """
        now = self._clock()
        states: dict[str, State] = {}
        with self._db.write() as db:
            for lease_id, usd in cost.items():
                found = db.execute(
                    "UPDATE leases SET renewed_at = ? WHERE lease_id = ? AND owner = ? AND state <> 'closed' "
                    "RETURNING state",
                    (now, lease_id, owner),
                ).fetchone()
                if found is not None:
                    states[lease_id] = found[0]
                    rows.book(db, lease_id, usd, "meter", now)
        return states

    def adopt_idle(
        self, owner: str, run_id: str, caps: Caps, usd: Callable[[Lease], float], fits: Callable[[Lease], bool]
    ) -> Lease | None:
        """Takes an idle machine over from a run that has ended; of several orchestrators exactly one gets it.

        Args:
            usd: what is to be reserved for a lease on top of what it has cost
            fits: whether a lease will do

        Raises:
            OverLimit: one is there and fits, but not into the limits.
        """
        now = self._clock()
        with self._db.write() as db:
            found = db.execute(f"{rows.SELECT} WHERE state = 'idle' AND idle_until > ? ORDER BY usd_per_hour", (now,))
            lease = next((each for each in map(rows.as_lease, found.fetchall()) if fits(each)), None)
            if lease is None:
                return None
            rows.book(db, lease.lease_id, lease.unattended_usd(now), "meter", now)
            spent = rows.one(db, lease.lease_id).spent_usd
            # What it had reserved to be idle is free again.
            db.execute("UPDATE leases SET reserved_usd = 0 WHERE lease_id = ?", (lease.lease_id,))
            used = rows.used(db, run_id, now)
            if usd(lease) > caps.room(used):
                raise OverLimit(*caps.refusal(used, usd(lease)))
            db.execute(
                "UPDATE leases SET state = 'ready', owner = ?, run_id = ?, reserved_usd = ?, renewed_at = ?, "
                "idle_until = NULL WHERE lease_id = ?",
                (owner, run_id, spent + usd(lease), now, lease.lease_id),
            )
            return rows.one(db, lease.lease_id)

    def condemn(self, lease: Lease, reason: str) -> bool:
        """Marks a lease as to be closed, unless somebody has taken or renewed it since it was read."""
        now = self._clock()
        with self._db.write() as db:
            done = db.execute(
                "UPDATE leases SET state = 'closing', reason = ?, renewed_at = ? "
                "WHERE lease_id = ? AND state = ? AND owner = ? AND renewed_at = ?",
                (reason, now, lease.lease_id, lease.state, lease.owner, lease.renewed_at),
            )
            if done.rowcount == 1:
                rows.book(db, lease.lease_id, lease.unattended_usd(now), "meter", now)
            return done.rowcount == 1

    def end(self, lease_id: str, reason: str, *, unattended: bool = False) -> None:
        """The machine is certainly gone, or never was. A reason that is there already stays.

        Args:
            unattended: nobody metered it: what it cost since it was last renewed is booked
        """
        now = self._clock()
        with self._db.write() as db:
            lease = rows.one(db, lease_id)
            if lease.is_open:
                if unattended and lease.instance_id is not None:
                    rows.book(db, lease_id, lease.unattended_usd(now), "meter", now)
                db.execute(
                    "UPDATE leases SET state = 'closed', closed_at = ?, idle_until = NULL, "
                    "reason = coalesce(reason, ?) WHERE lease_id = ?",
                    (now, reason, lease_id),
                )

    def get(self, lease_id: str) -> Lease:
        """Raises KeyError: there is none of this id."""
        for lease in self._select("WHERE lease_id = ?", lease_id):
            return lease
        raise KeyError(lease_id)

    def open(self) -> list[Lease]:
        """Those whose machine may be there, the oldest first."""
        return self._select("WHERE state <> 'closed' ORDER BY opened_at")

    def latest(self, limit: int) -> list[Lease]:
        """Open and closed ones, the newest first."""
        return self._select("ORDER BY opened_at DESC LIMIT ?", limit)

    def labelled(self, label: str) -> Lease | None:
        found = self._select("WHERE label = ?", label)
        return found[0] if found else None

    def bad_machines(self, since: float) -> set[int]:
        """Machines that failed at or after a time."""
        found = self._db.query("SELECT machine_id FROM leases WHERE is_bad AND opened_at >= ?", (since,))
        return {row[0] for row in found}

    def _select(self, where: str, *values: object) -> list[Lease]:
        return [rows.as_lease(row) for row in self._db.query(f"{rows.SELECT} {where}", values)]

    # -- money ----------------------------------------------------------------------------------------------------

    def charge(self, lease_id: str, usd: float, *, final: bool = False) -> None:
        """What the provider's books say it has cost. Ours follow where theirs are higher, and in the end anyway."""
        now = self._clock()
        with self._db.write() as db:
            lease = rows.one(db, lease_id)
            difference = usd - lease.spent_usd
            if difference > 0 or final:
                rows.book(db, lease_id, difference, "charges", min(now, lease.closed_at or now))
            settled = now if final else lease.settled_at
            db.execute("UPDATE leases SET charged_usd = ?, settled_at = ? WHERE lease_id = ?", (usd, settled, lease_id))

    def settle(self, lease_id: str) -> None:
        """What was booked stands: the provider's books have nothing to say about it."""
        with self._db.write() as db:
            db.execute("UPDATE leases SET settled_at = ? WHERE lease_id = ?", (self._clock(), lease_id))

    def unsettled(self) -> list[Lease]:
        """Those with a machine whose cost is not final, the oldest first."""
        return self._select("WHERE settled_at IS NULL AND instance_id IS NOT NULL ORDER BY opened_at")

    def used(self, run_id: str) -> Used:
        """Spent and reserved."""
        with self._db.write() as db:
            return rows.used(db, run_id, self._clock())

    def spent(self, *, run_id: str | None = None, period: str | None = None) -> float:
        """Booked so far.

        Args:
            run_id: of this run only
            period: of this day (2026-11-30) or month (2026-11), UTC, only
        """
        found = self._db.query(
            "SELECT coalesce(sum(usd), 0) FROM spending WHERE (?1 IS NULL OR run_id = ?1) "
            "AND (?2 IS NULL OR substr(day, 1, length(?2)) = ?2)",
            (run_id, period),
        )
        return float(found[0][0])

    # -- notices --------------------------------------------------------------------------------------------------

    def notice(self, name: str, text: str) -> bool:
        """Something that people are to be told of; False where one of this name is there already."""
        with self._db.write() as db:
            done = db.execute("INSERT OR IGNORE INTO notices VALUES (?, ?, ?, NULL)", (name, self._clock(), text))
            return done.rowcount == 1

    def notices(self, since: float = 0.0, *, untold: bool = False) -> list[Notice]:
        """The oldest first."""
        found = self._db.query(
            "SELECT name, at, text, told_at FROM notices WHERE at >= ? AND (told_at IS NULL OR NOT ?) ORDER BY at",
            (since, untold),
        )
        return [Notice(*row) for row in found]

    def told(self, names: list[str]) -> None:
        with self._db.write() as db:
            db.executemany("UPDATE notices SET told_at = ? WHERE name = ?", [(self._clock(), name) for name in names])

    # -- views ----------------------------------------------------------------------------------------------------

    def lease_table(self) -> pa.Table:
        """All leases, for the view `gpu_leases`."""
        found = [
            {f.name: getattr(lease, f.name) for f in fields(lease)} for lease in self._select("ORDER BY opened_at")
        ]
        return pa.Table.from_pylist([rows.shown(lease) for lease in found], schema=GPU_LEASES)

    def cost_table(self) -> pa.Table:
        """What was booked, by lease, run, day and source, for the view `gpu_costs`."""
        names = ("lease_id", "run_id", "day", "source", "spent_usd", *_OF_LEASE)
        found = self._db.query(
            f"SELECT s.lease_id, s.run_id, day, source, usd, {', '.join(_OF_LEASE)} "  # noqa: S608 - names above
            "FROM spending AS s JOIN leases USING (lease_id) ORDER BY day, opened_at, s.run_id, source"
        )
        shown = [rows.shown(dict(zip(names, row, strict=True))) for row in found]
        return pa.Table.from_pylist(shown, schema=GPU_COSTS)


__all__ = ["Caps", "Lease", "Leases", "Notice", "OverLimit", "State", "Used", "day"]
