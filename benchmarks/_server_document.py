"""docs/sizing.md: the figures of servers of several sizes, how they were measured, and what they mean."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks._server_load import Latencies, Memory
from benchmarks._server_mix import DESCRIPTION

MIB, GIB = 1024**2, 1024**3
# What the system itself takes of a server's memory: kernel, Docker, ssh, journal.
SYSTEM_BYTES = GIB // 2
_HOURS_PER_MONTH = 730
_QUESTIONS = ("UI, first page", "UI, state of all assets", "UI, latest runs", "`sql`", "`search`")
_DISK = ("results and originals", "Dagster's database", "images")


@dataclass
class Measured:
    """One server."""

    size: str
    cores: float
    limit_bytes: int
    files: int = 0
    megabytes: float = 0.0
    up_s: float = 0.0
    upload_s: float = 0.0
    done_s: float = 0.0  # from the first byte uploaded to the last result
    idle: Memory = field(default_factory=Memory)
    busy: Memory = field(default_factory=Memory)
    by_service: Mapping[str, int] = field(default_factory=dict)
    with_caches: int = 0
    killed: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    idle_latencies: Latencies = field(default_factory=Latencies)
    disk: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0

    @property
    def files_per_hour(self) -> float:
        return self.files / self.done_s * 3600

    @property
    def title(self) -> str:
        return f"{self.size.removesuffix('g')} GB, {self.cores:g} cores".replace(" 1 cores", " 1 core")


def table_rows(found: Sequence[Measured], prices: Mapping[str, float]) -> list[list[str]]:
    """A row per figure, a column per server."""

    def row(name: str, values: Sequence[str]) -> list[str]:
        return [name, *values]

    rows = [
        row("files per hour", [f"{m.files_per_hour:,.0f}" for m in found]),
        row("files per day, if it never rests", [f"{m.files_per_hour * 24:,.0f}" for m in found]),
        row("price per month (assumed)", [f"{prices[m.size]:g} EUR" for m in found]),
        row("EUR per 1,000 files", [f"{eur_per_1000(m, prices):.2f}" for m in found]),
        row("start: `make up` until all is well", [f"{m.up_s:.0f} s" for m in found]),
        row("upload", [f"{m.megabytes / m.upload_s:.0f} MB/s" for m in found]),
    ]
    for name in _QUESTIONS:
        for when, latencies in (("idle", "idle_latencies"), ("busy", "latencies")):
            rows.append(row(f"{name}, {when}: p50 / p95", [_pair(getattr(m, latencies), name) for m in found]))
    rows += [
        row("questions not answered", [str(sum(m.latencies.failed.values())) for m in found]),
        row("memory, idle", [_mb(m.idle.total) for m in found]),
        row("memory, peak: services", [_mb(m.busy.services) for m in found]),
        row("memory, peak: runs", [_mb(m.busy.runs) for m in found]),
        row("memory, peak: all together", [_mb(m.busy.total) for m in found]),
        row("… of the limit", [_mb(m.limit_bytes) for m in found]),
        row("processes killed for lack of memory", [str(m.killed) for m in found]),
        row("files that could not be analysed", [str(m.failed) for m in found]),
        *(row(f"disk: {what}", [_mb(m.disk[what]) for m in found]) for what in _DISK),
    ]
    return rows


def _pair(latencies: Latencies, name: str) -> str:
    values = [latencies.quantile(name, share) for share in (0.5, 0.95)]
    return " / ".join(_seconds(value) for value in values)


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _mb(count: float) -> str:
    return f"{count / MIB:,.0f} MB"


def eur_per_1000(measured: Measured, prices: Mapping[str, float]) -> float:
    return prices[measured.size] / (measured.files_per_hour * _HOURS_PER_MONTH) * 1000


def document(found: Sequence[Measured], prices: Mapping[str, float]) -> str:
    header = ["", *(m.title for m in found)]
    lines = [header, ["---", *["---:"] * len(found)], *table_rows(found, prices)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    services = max(found, key=lambda m: m.busy.services).by_service
    largest = ", ".join(f"{name} {_mb(n)}" for name, n in sorted(services.items(), key=lambda item: -item[1]))
    return TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        files=found[0].files,
        megabytes=found[0].megabytes,
        mix=DESCRIPTION,
        table=table,
        services=largest,
        system=_mb(SYSTEM_BYTES),
    )


TEXT = """\
# Sizing

Which server for how many files.

Made by `python -m benchmarks.server --docs docs/sizing.md` on {date}, {machine}.

{table}

"""
