"""docs/sizing.md: the figures of servers of several sizes, how they were measured, and what they mean."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from textwrap import fill

from benchmarks._server_load import Latencies, Memory
from benchmarks._server_mix import DESCRIPTION

MIB, GIB = 1024**2, 1024**3
# What the system itself takes of a server's memory: kernel, Docker, ssh, journal.
SYSTEM_BYTES = GIB // 2
_HOURS_PER_MONTH = 730
CORES = {"8g": 4, "16g": 8, "32g": 16}  # of such servers as they are rented out
_QUESTIONS = ("UI, first page", "UI, state of all assets", "UI, latest runs", "`sql`", "`search`")
_DISK = ("results and originals", "Dagster's database", "images")


@dataclass
class Measured:
    """One server."""

    size: str
    cores: float
    run_memory: str
    limit_bytes: int
    files: int = 0
    megabytes: float = 0.0
    up_s: float = 0.0
    upload_s: float = 0.0
    done_s: float = 0.0  # from the first byte uploaded to the last result
    cpu_s: float = 0.0  # processor seconds of all containers in that time
    others_cores: float = 0.0  # processors that others on this machine had meanwhile
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
    def cpu_s_per_file(self) -> float:
        return self.cpu_s / self.files

    @property
    def most_per_hour(self) -> float:
        """With the processors that such a server has, all of them at work; computed."""
        return CORES[self.size] * 3600 / self.cpu_s_per_file

    @property
    def title(self) -> str:
        return f"{self.size.removesuffix('g')} GB, {self.cores:g} cores".replace(" 1 cores", " 1 core")


def table_rows(found: Sequence[Measured], prices: Mapping[str, float]) -> list[list[str]]:
    """A row per figure, a column per server."""

    def row(name: str, values: Sequence[str]) -> list[str]:
        return [name, *values]

    rows = [
        row("files per hour, measured", [f"{m.files_per_hour:,.0f}" for m in found]),
        row("… with processors that others took meanwhile", [f"{m.others_cores:.1f}" for m in found]),
        row("processor seconds per file", [f"{m.cpu_s_per_file:.1f}" for m in found]),
        row("cores of such a server (assumed)", [str(CORES[m.size]) for m in found]),
        row("files per hour with them, at most (computed)", [f"{m.most_per_hour:,.0f}" for m in found]),
        row("price per month (assumed)", [f"{prices[m.size]:g} EUR" for m in found]),
        row(
            "EUR per 1,000 files, with the cores it had here",
            [f"{eur(m, prices, m.files_per_hour):.3f}" for m in found],
        ),
        row("EUR per 1,000 files, at best (computed)", [f"{eur(m, prices, m.most_per_hour):.3f}" for m in found]),
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


def eur(measured: Measured, prices: Mapping[str, float], per_hour: float) -> float:
    """Per 1,000 files, where the server never rests."""
    return prices[measured.size] / (per_hour * _HOURS_PER_MONTH) * 1000


def document(found: Sequence[Measured], prices: Mapping[str, float]) -> str:
    header = ["", *(m.title for m in found)]
    lines = [header, ["---", *["---:"] * len(found)], *table_rows(found, prices)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    services = max(found, key=lambda m: m.busy.services).by_service
    largest = ", ".join(f"{name} {_mb(n)}" for name, n in sorted(services.items(), key=lambda item: -item[1]))
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        files=found[0].files,
        megabytes=found[0].megabytes,
        mix=DESCRIPTION,
        table=table,
        services=largest,
        system=_mb(SYSTEM_BYTES),
        cores=os.cpu_count(),
        run_memory=", ".join(f"{m.run_memory.upper()}B" for m in found),
        sizes=", ".join(f"{size.removesuffix('g')} GB with {cores}" for size, cores in CORES.items()),
        meaning=_meaning(found),
    )
    return wrapped(text)


def wrapped(text: str) -> str:
    """Paragraphs and points in lines of at most 120 characters; tables and headings as they are."""
    parts = []
    for part in text.strip().split("\n\n"):
        if part.startswith(("|", "#")):
            parts.append(part)
            continue
        points = part.split("\n") if part.startswith("- ") else [" ".join(part.split("\n"))]
        parts.append("\n".join(_filled(point) for point in points))
    return "\n\n".join(parts) + "\n"


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _meaning(found: Sequence[Measured]) -> str:
    """In sentences, from the smallest server."""
    first = min(found, key=lambda m: (m.limit_bytes, -m.cores))
    cores = CORES[first.size]
    lines = [
        f"- Processors decide how many files a server takes: each file of this mix is {first.cpu_s_per_file:.0f} "
        f"processor seconds. {cores} cores are {first.most_per_hour:,.0f} files an hour at most, "
        f"{first.most_per_hour * 24:,.0f} a day; a thousand files keep them busy for "
        f"{1000 / first.most_per_hour:.1f} hours.",
        f"- Memory decides whether it can work at all: the services take {_mb(first.busy.services)} at most, a run "
        f"{_mb(first.busy.runs)}, together {_mb(first.busy.total)} of {_mb(first.limit_bytes)} on the smallest. More "
        "memory does not make it faster; it is for larger models, for several hundred thousand media (scale.md) and "
        "for the pages of files.",
        "- Take 8 GB until one of these is so: runs are killed for lack of memory, a model that you want does not fit, "
        "or the library grows beyond some 100,000 media. Take more cores when the queue is not empty in the morning, "
        "or rent a GPU for the rush (gpu.md).",
    ]
    return "\n".join(lines)


TEXT = """\
# Sizing

Which server for how many files.

Made by `python -m benchmarks.server --files {files} --docs docs/sizing.md` on {date}, {machine}.

{table}

## How it was measured

Each column is a server of its own, started by `make up` from a clean clone. All of its containers, those of runs too,
share one control group with the memory of such a server less {system} for its system. **This machine has {cores}
cores**, fewer than such servers: so the columns show what memory brings, and what more cores bring is computed from
the processor seconds that all containers used, as if the work shared out evenly. It does not quite: the start of a run
and its last steps use one core. Work of others on the machine, which the table names, slows a column down and makes
its processor seconds dearer: where columns differ in them, the lowest is nearest to the truth. A run may take
{run_memory} of memory (`MEDIA_PIPELINE_SERVER__RUN_MEMORY`).

The standard mix is {files} files, {megabytes:.0f} MB, all synthetic. {mix} They are uploaded one after the other
through the gateway, and the clock runs from the first byte to the last result: waiting for the watch folder, the
start of the run and writing the results are in it, so that more files at once are faster per file. Models are those
inside the packages (`MEDIA_PIPELINE_TIER=embedded`), speech is recognised as English (`MEDIA_PIPELINE_LANGUAGE=en`).
Larger models change the figures: measure your own with `--files`.

Meanwhile somebody looks at the UI through the gateway (the first page, the state of all assets, the latest runs: every
four seconds) and asks `sql` and `search` by `docker exec` (every thirty), both also for a while before the files come.
What these commands take is the start of a program for the most part; the queries themselves are in
[scale.md](scale.md). Memory is that of processes and shared memory, twice a second, without the pages of files, which
the system takes back. At its peak: {services}.

EUR per 1,000 files is the price of a month over the files of a month in which the server never rests; one that is busy
an hour a day costs 24 times as much per file, and could be smaller only in memory. Prices are assumptions
(`--eur 8g=20`), as are the cores of the sizes: {sizes}.

## What it means

{meaning}
"""
