"""Metrics of a home: its queue, results, failures, money, snapshots and disk, as `metrics_survey` reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric

from media_pipeline.config import Settings, child_environment
from media_pipeline.errors import MediaPipelineError
from media_pipeline.server.metrics_backup import backup_metrics
from media_pipeline.server.metrics_reasons import CLASSES
from media_pipeline.server.metrics_source import Part, Problem, Render, Source, gauge

COUNTS_EVERY_S = 60.0
STALE_EVERY_S = 600.0
DISK_EVERY_S = 15.0
_AT_LEAST_EVERY_S = 6 * 3600.0  # what does not show in the files that are looked at: another model, another day
_DAY_CHANGES_S = 3600.0
_SURVEY_S = 300.0
_NICE = 19
_HOUR_S = 3600.0

COUNTED = ("media", "ledger", "costs", "gpu", "home_backup")


def home_sources(settings: Settings) -> tuple[list[Source], Callable[[], float | None]]:
    """Everything there is to know of a home; and since when it holds anything (seconds since 1970; None: nothing)."""
    counts, stale = Surveyor(settings, "counts", _DAY_CHANGES_S), Surveyor(settings, "stale", _AT_LEAST_EVERY_S)
    finished = Finished()

    def first_at() -> float | None:
        return counts.found.get("media", {}).get("first_at")

    renders: dict[str, Callable[[dict[str, Any], float], Iterable[Metric]]] = {
        "media": lambda found, now: _media(found, now, finished),
        "ledger": lambda found, _: _ledger(found),
        "costs": lambda found, _: _costs(found),
        "gpu": lambda found, now: _gpu(found, now, settings),
        "home_backup": lambda found, now: backup_metrics("home", found, now, first_at()) if found["is_set"] else (),
        "stale": lambda found, _: _stale(found),
        "storage": lambda found, _: _storage(found),
    }

    def parts(surveyor: Surveyor) -> Mapping[str, Part]:
        return {name: _part(found, renders[name]) for name, found in surveyor.read().items()}

    sources = [
        Source(COUNTED, lambda: parts(counts), COUNTS_EVERY_S, _SURVEY_S),
        Source(("stale", "storage"), lambda: parts(stale), STALE_EVERY_S, 2 * _SURVEY_S),
        Source(("disk",), lambda: {"disk": Part(_disk(settings.home))}, DISK_EVERY_S),
    ]
    return sources, first_at


class Surveyor:
    """Has a home looked at by a process of its own, when something in it has changed."""

    def __init__(self, settings: Settings, which: str, at_least_every_s: float) -> None:
        self._settings, self._which, self._at_least_every_s = settings, which, at_least_every_s
        self._seen: object = None
        self._at = float("-inf")
        self.found: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, dict[str, Any]]:
        """Raises: MediaPipelineError."""
        if not self._settings.home.is_dir():
            raise MediaPipelineError(
                f"{self._settings.home} is not there", "start the code location, or mount the volume of the home"
            )
        seen = self._state()
        failed = any("error" in part for part in self.found.values())
        if failed or seen != self._seen or time.monotonic() - self._at > self._at_least_every_s:
            self.found = self._ask()
            self._seen, self._at = seen, time.monotonic()
        return self.found

    def _state(self) -> tuple[object, ...]:
        """What is different after any change that a survey would tell of, at the price of some lookups."""
        home = self._settings.home
        files = [home / f"{name}.sqlite{suffix}" for name in ("sources", "costs", "gpu") for suffix in ("", "-wal")]
        folders = [home / "tables" / "analyses" / "_delta_log", home / "models"]
        if self._settings.backup.to is not None:
            folders.append(self._settings.backup.to / "snapshots")
        return tuple(_stamp(path) for path in (*files, *folders))

    def _ask(self) -> dict[str, dict[str, Any]]:
        command = [sys.executable, "-m", "media_pipeline.server.metrics_survey", self._which]
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                command,
                env=child_environment(self._settings),
                capture_output=True,
                text=True,
                timeout=_SURVEY_S,
                check=False,
                preexec_fn=_last_in_line,
            )
        except subprocess.TimeoutExpired:
            raise MediaPipelineError(f"the home was not read in {_SURVEY_S:.0f} s", "look at its disk") from None
        if done.returncode < 0:
            raise MediaPipelineError(
                f"reading the home was ended by signal {-done.returncode}", "give the service `metrics` more memory"
            )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise MediaPipelineError(f"reading the home ended with code {done.returncode}: {last[:300]}")
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return found


def _last_in_line() -> None:
    os.nice(_NICE)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size


def _part(found: dict[str, Any], render: Callable[[dict[str, Any], float], Iterable[Metric]]) -> Part:
    if "error" in found:
        return Part(None, Problem(found["error"], found["remedy"]))
    return Part(lambda now: render(found, now))


class Finished:
    """Counts files as they are finished. From 0 on, as counters do: a restart must not look like a day's work."""

    def __init__(self) -> None:
        self._total = 0
        self._last: int | None = None

    def total(self, finished: int) -> int:
        if self._last is not None:
            self._total += max(0, finished - self._last)
        self._last = finished
        return self._total


# --- metrics --------------------------------------------------------------------------------------------------------


def _media(found: dict[str, Any], now: float, finished: Finished) -> Iterable[Metric]:
    waiting, given_up = found["waiting"], found["given_up"]
    oldest = found["oldest_waiting_at"]
    yield gauge("media", "Media of this home.", found["media"])
    yield gauge("media_waiting", "Media that wait for their analysis or are in the hands of a run.", waiting)
    yield gauge("media_given_up", "Media whose run was cut off so often that nobody asks for another.", given_up)
    yield gauge(
        "media_oldest_waiting_age_seconds",
        "Time since the longest waiting medium came; 0: none waits.",
        max(0.0, now - oldest) if oldest is not None else 0.0,
    )
    yield CounterMetricFamily(
        "media_pipeline_media_finished",
        "Media that were finished since the exporter started.",
        value=finished.total(found["media"] - waiting - given_up),
    )
    refused = gauge("files_refused", "Files that were not taken, by the class of the reason.", labels=("reason",))
    for name in CLASSES:
        refused.add_metric([name], found["refused"].get(name, 0))
    yield refused


def _ledger(found: dict[str, Any]) -> Iterable[Metric]:
    pairs = gauge("pairs", "Pairs of a medium and a stage, by what stands in the ledger.", labels=("stage", "status"))
    failures = gauge(
        "failures", "Pairs that failed and stand so, by the class of the reason.", labels=("stage", "reason")
    )
    for stage, by_status in found["pairs"].items():
        for status, count in by_status.items():
            pairs.add_metric([stage, status], count)
        # All classes, also those without any: a series that appears with its first failure has no increase.
        for name in CLASSES:
            failures.add_metric([stage, name], found["failures"][stage].get(name, 0))
    yield pairs
    yield failures


def _costs(found: dict[str, Any]) -> Iterable[Metric]:
    for name, key, text in (
        ("analyzer_cpu_seconds_per_medium", "cpu_s_per_medium", "CPU seconds of a medium, lately."),
        ("analyzer_wall_seconds_per_frame", "wall_s_per_frame", "Seconds of a sampled frame, all threads together."),
        ("analyzer_wall_seconds_per_audio_second", "wall_s_per_audio_s", "Seconds of a second of sound, likewise."),
    ):
        metric = gauge(name, text, labels=("analyzer", "device"))
        for row in found["costs"]:
            if row[key] is not None:
                metric.add_metric([row["analyzer"], row["device"]], row[key])
        yield metric


def _gpu(found: dict[str, Any], now: float, settings: Settings) -> Iterable[Metric]:
    spent = gauge("gpu_spent_usd", "Booked for rented machines in this period (UTC).", labels=("period",))
    limit = gauge("gpu_limit_usd", "What may be spent in this period.", labels=("period",))
    for period, cap in (("day", settings.gpu.max_usd_per_day), ("month", settings.gpu.max_usd_per_month)):
        spent.add_metric([period], found[f"{period}_usd"])
        limit.add_metric([period], cap)
    yield spent
    yield limit
    yield gauge("gpu_reserved_usd", "What open leases may still spend.", found["reserved_usd"])
    opened: list[float] = found["opened_at"]
    yield gauge("leases_open", "Rented machines that may be there.", len(opened))
    yield gauge(
        "lease_oldest_age_seconds",
        "Age of the oldest open lease; 0: none is open.",
        max(0.0, now - min(opened)) if opened else 0.0,
    )
    yield gauge(
        "lease_deadline_seconds",
        "Age at which a rented machine destroys itself: none should be older.",
        settings.gpu.max_hours * _HOUR_S,
    )


def _stale(found: dict[str, Any]) -> Iterable[Metric]:
    stale = gauge("pairs_stale", "Results that are not what would be made now, by stage.", labels=("stage",))
    for stage, count in found["stale"].items():
        stale.add_metric([stage], count)
    yield stale
    models = gauge(
        "analyzer_model_info",
        "The model that an analyzer has now; tier none: none.",
        labels=("analyzer", "tier", "model"),
    )
    for row in found["models"]:
        models.add_metric([row["analyzer"], row["tier"], row["model"]], 1)
    yield models


def _storage(found: dict[str, Any]) -> Iterable[Metric]:
    metric = gauge("stored_bytes", "Bytes of the home, by what they are.", labels=("what",))
    for what, size in found["bytes"].items():
        metric.add_metric([what], size)
    yield metric


def _disk(home: Path) -> Render:
    usage = shutil.disk_usage(home)

    def render(_: float) -> Iterable[Metric]:
        yield gauge("disk_free_bytes", "Free on the disk of the home.", usage.free)
        yield gauge("disk_size_bytes", "Size of the disk of the home.", usage.used + usage.free)

    return render
