"""What analyzers cost, learnt while they run: seconds per frame and per second of sound, by model and machine; and what
comes on top, a run around its analyzers and what is sent to other machines.

Sums with a fading memory: what was measured long ago weighs less and less, so a faster release or a busier machine
shows after some thousand frames, and no history has to be kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from media_pipeline.storage.sqlite import Database

# Work that the sums remember, in seconds: an hour of an analyzer's work outweighs all that was before.
MEMORY_WORK_S = 3600.0
MEMORY_OVERHEAD_S = 300.0

SCHEMA = pa.schema(
    [
        ("analyzer", pa.string()),
        ("model", pa.string()),
        ("device", pa.string()),
        ("machine", pa.string()),  # processor and cores, as `machine()` names them, or the GPU of a rented one
        ("media", pa.float64()),
        ("frames", pa.float64()),
        pa.field("audio_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("cpu_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("wall_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("load_s", pa.float64(), metadata={"unit": "s", "comment": "of the last time the model was loaded"}),
        pa.field("cpu_s_per_medium", pa.float64(), metadata={"unit": "s"}),
        pa.field("cpu_s_per_frame", pa.float64(), metadata={"unit": "s", "comment": "null: it sees no frames"}),
        pa.field("cpu_s_per_audio_s", pa.float64(), metadata={"comment": "real-time factor; null: it hears no sound"}),
        pa.field("wall_s_per_frame", pa.float64(), metadata={"unit": "s", "comment": "all its threads together"}),
        pa.field(
            "wall_s_per_audio_s", pa.float64(), metadata={"comment": "real-time factor, all its threads together"}
        ),
        ("updated_at", pa.timestamp("us", tz="UTC")),
    ]
)

_DDL = """
    CREATE TABLE IF NOT EXISTS costs (
        analyzer TEXT NOT NULL, model TEXT NOT NULL, device TEXT NOT NULL, machine TEXT NOT NULL,
        media REAL NOT NULL, frames REAL NOT NULL, audio_s REAL NOT NULL,
        cpu_s REAL NOT NULL, wall_s REAL NOT NULL, load_s REAL, updated_at TEXT NOT NULL,
        PRIMARY KEY (analyzer, model, device, machine)
    ) WITHOUT ROWID;
"""
_SUMS = ("media", "frames", "audio_s", "cpu_s", "wall_s")
# Made when the first is recorded, not by a new version of the file: an upgrade that is taken back finds one that the
# older program can read.
_OVERHEADS_DDL = """
    CREATE TABLE IF NOT EXISTS overheads (name TEXT PRIMARY KEY, units REAL NOT NULL, seconds REAL NOT NULL)
    WITHOUT ROWID
"""
Overhead = Literal["run", "sending"]  # per run, around its analyzers; per byte sent to another machine


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of one analyzer took. Frames and sound are those it was given, whatever its gates let through."""

    analyzer: str
    model: str
    device: str
    media: int
    frames: int
    audio_s: float
    cpu_s: float
    wall_s: float  # in which at least one batch was computed
    load_s: float | None = None  # until it could begin; None: the model was there already
    machine: str | None = None  # where: the name of a rented GPU; None: this machine
    sent_bytes: int = 0  # of frames and sound, to that machine
    sending_s: float = 0.0  # in which nothing but sending was done


class Costs:
    """The sums of this home, in SQLite."""

    def __init__(self, file: Path) -> None:
        self._database = Database(file, _DDL, version=1)

    def record(self, cost: Cost) -> None:
        """Adds one run; older ones fade."""
        values: dict[str, object] = {
            **asdict(cost),
            "machine": cost.machine or machine(),
            # On a GPU the wall's seconds are the work: its processor has little to do.
            "keep": max(0.0, 1.0 - max(cost.cpu_s, cost.wall_s) / MEMORY_WORK_S),
            "now": datetime.now(UTC).isoformat(),
        }
        faded = ", ".join(f"{name} = {name} * :keep + :{name}" for name in _SUMS)
        with self._database.write() as db:
            db.execute(
                f"""
                INSERT INTO costs VALUES (:analyzer, :model, :device, :machine,
                    :media, :frames, :audio_s, :cpu_s, :wall_s, :load_s, :now)
                ON CONFLICT DO UPDATE SET {faded}, load_s = coalesce(:load_s, load_s), updated_at = :now
                """,  # noqa: S608 - column names of this module
                values,
            )

        if cost.sent_bytes:
            self.record_overhead("sending", cost.sent_bytes, cost.sending_s)

    def record_overhead(self, name: Overhead, units: float, seconds: float) -> None:
        """Adds what so many units of it took; older ones fade."""
        with self._database.write() as db:
            db.execute(_OVERHEADS_DDL)
            db.execute(
                """
                INSERT INTO overheads VALUES (:name, :units, :seconds)
                ON CONFLICT DO UPDATE SET units = units * :keep + :units, seconds = seconds * :keep + :seconds
                """,
                {"name": name, "units": units, "seconds": seconds, "keep": max(0.0, 1.0 - seconds / MEMORY_OVERHEAD_S)},
            )

    def overhead(self, name: Overhead) -> float | None:
        """Seconds per unit; None where it was never measured."""
        if not self._database.query("SELECT 1 FROM sqlite_master WHERE name = 'overheads'"):
            return None
        rows = self._database.query("SELECT seconds / units FROM overheads WHERE name = ? AND units > 0", [name])
        return rows[0][0] if rows else None

    def table(self) -> pa.Table:
        """All sums with what follows from them, for the view `analyzer_costs`."""
        rows = self._database.query(f"SELECT {', '.join(_SCALARS)} FROM costs ORDER BY analyzer, model")  # noqa: S608
        return pa.Table.from_pylist(list(_described(rows)), schema=SCHEMA)

    def close(self) -> None:
        self._database.close()


_SCALARS = ("analyzer", "model", "device", "machine", *_SUMS, "load_s", "updated_at")


def _described(rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = dict(zip(_SCALARS, row, strict=True))
        found["updated_at"] = datetime.fromisoformat(found["updated_at"])
        for unit, total in (("medium", "media"), ("frame", "frames"), ("audio_s", "audio_s")):
            for seconds in ("cpu_s", "wall_s"):
                found[f"{seconds}_per_{unit}"] = found[seconds] / found[total] if found[total] else None
        yield {name: found[name] for name in SCHEMA.names}


@cache
def machine() -> str:
    """The processor and how many of its cores this process may use: "AMD EPYC 7B13, 4 cores"."""
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} core{'s' * (cores != 1)}"


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()
