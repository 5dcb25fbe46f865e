"""The whole collection with every analyzer on, as a user would run it: time, CPU, memory, what was done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from benchmarks.measure import Usage
from media_pipeline.errors import MediaPipelineError
from media_pipeline.execution.stages import stage_infos
from quality.home import Home
from quality.report import Grid

GIB = 1024**3
POLL_S = 2.0
COLUMNS = ("run", "wall", "CPU", "peak memory", "media", "analyses done", "failed", "unavailable")
NOTES = (
    "All files, the broken ones included, from an empty home: intake, decoding, analyzers, search index and views. "
    "Memory is the proportional set size of the whole process tree, looked at five times a second; the goal is at most "
    "3 GB. An analysis is one stage of one medium; those that failed are of broken files unless a remark above says "
    "otherwise."
)


def run_row(label: str, home: Home, usage: Usage) -> tuple[str, ...]:
    counts = home.sql(
        "SELECT count(*) FILTER (analyzer = 'media') AS media, count(*) FILTER (status = 'done') AS done,"
        " count(*) FILTER (status = 'failed') AS failed,"
        " list_sort(list(DISTINCT analyzer) FILTER (status = 'unavailable')) AS unavailable FROM analyses"
    )[0]
    return (
        label,
        f"{usage.wall_s:.0f} s",
        f"{usage.cpu_s:.0f} s",
        f"{usage.peak_bytes / GIB:.1f} GiB",
        str(counts["media"]),
        str(counts["done"]),
        str(counts["failed"]),
        ", ".join(counts["unavailable"] or ["none"]),
    )


def grid(rows: list[tuple[str, ...]]) -> Grid:
    return Grid("The whole collection, every analyzer on", COLUMNS, tuple(rows), NOTES)


@contextmanager
def shown(progress: Progress, label: str, home: Home, files: int) -> Iterator[None]:
    """A bar that follows the ledger of a home while another process works in it."""
    task = progress.add_task(label, total=files * len(stage_infos()))
    done = threading.Event()

    def follow() -> None:
        while not done.wait(POLL_S):
            try:
                counts = home.pipeline.ledger.counts()
            except MediaPipelineError:
                continue  # looked at in the middle of a change
            progress.update(task, completed=sum(sum(by_status.values()) for by_status in counts.values()))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()
        progress.update(task, completed=files * len(stage_infos()))
