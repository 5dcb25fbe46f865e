"""For each alert the samples under which it must fire, and those under which it must not."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "alert-rules.yml"
JOB = {"job": "media-pipeline", "instance": "metrics:9200"}


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def program(name: str) -> str:
    """Its path; skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation (start+step x count, one step a minute), and the labels of what fires."""

    series: Mapping[str, str]
    at: str = "3h"
    fires: tuple[Mapping[str, str], ...] = ()


def _mp(name: str, **labels: str) -> str:
    told = ",".join(f'{key}="{value}"' for key, value in {**JOB, **labels}.items())
    return f"media_pipeline_{name}{{{told}}}"


UP = {f'up{{job="media-pipeline",instance="{JOB["instance"]}"}}': "1x300"}
_OLD, _DONE = _mp("media_oldest_waiting_age_seconds"), _mp("media_finished_total")
_DAY, _MONTH = {"period": "day"}, {"period": "month"}
_OPEN, _DEADLINE = _mp("lease_oldest_age_seconds"), _mp("lease_deadline_seconds")
_DAGSTER = _mp("exporter_source_up", source="dagster")


def _money(day: float, month: float, reserved: float, limits: tuple[float, float] = (3, 20)) -> dict[str, str]:
    return {
        _mp("gpu_spent_usd", **_DAY): f"{day}x300",
        _mp("gpu_spent_usd", **_MONTH): f"{month}x300",
        _mp("gpu_limit_usd", **_DAY): f"{limits[0]}x300",
        _mp("gpu_limit_usd", **_MONTH): f"{limits[1]}x300",
        _mp("gpu_reserved_usd"): f"{reserved}x300",
    }


def _failures(step: str, finished: str) -> dict[str, str]:
    return {
        _mp("failures", stage="ocr", reason="damaged"): step,
        _mp("failures", stage="labels", reason="damaged"): "500x300",
        _DONE: finished,
    }


# By alert: what must make it fire, and what comes near and must not.
CASES: dict[str, list[Case]] = {
    "QueueStuck": [
        Case({_OLD: "0+60x300", _DONE: "7x300"}, fires=(JOB,)),
        Case({_OLD: "0+60x300", _DONE: "7x300"}, at="1h59m"),
        Case({_OLD: "0+60x300", _DONE: "0+0x120 1x180"}),  # a long queue that moves
        Case({_OLD: "0x300", _DONE: "7x300"}),  # nobody waits
    ],
    "DiskLow": [
        Case({_mp("disk_free_bytes"): "9x300", _mp("disk_size_bytes"): "100x300"}, at="10m", fires=(JOB,)),
        Case({_mp("disk_free_bytes"): "11x300", _mp("disk_size_bytes"): "100x300"}),
        Case({_mp("disk_free_bytes"): "11x20 9x3 11x300", _mp("disk_size_bytes"): "100x300"}, at="23m"),
    ],
    "BackupFailed": [
        Case({_mp("backup_last_failed", kind="home"): "1x300"}, at="5m", fires=({**JOB, "kind": "home"},)),
        Case({_mp("backup_last_failed", kind="home"): "0x300"}),
    ],
    "BackupMissing": [
        Case(
            {_mp("backup_age_seconds", kind="installation"): "129000+60x300"},
            at="30m",
            fires=({**JOB, "kind": "installation"},),
        ),
        Case({_mp("backup_age_seconds", kind="installation"): "129000+1x300"}),
    ],
    "GpuBudgetNearlySpent": [
        Case(_money(2.5, 15.9, 0), at="5m", fires=({**JOB, **_DAY},)),
        Case(_money(2.3, 15.9, 0.7)),  # what is only reserved may come back
        Case(_money(0, 0, 0, (0, 0))),  # nothing may be rented
    ],
    "GpuBudgetSpent": [
        Case(_money(0.1, 17.0, 3.0), at="5m", fires=({**JOB, **_MONTH},)),
        Case(_money(0.1, 17.0, 2.0)),
        Case(_money(0, 0, 0, (0, 0))),
    ],
    "LeaseOverdue": [
        Case({_OPEN: "43000+60x300", _DEADLINE: "43200x300"}, at="15m", fires=(JOB,)),
        Case({_OPEN: "40000+1x300", _DEADLINE: "43200x300"}),
        Case({_OPEN: "0x300", _DEADLINE: "43200x300"}),
    ],
    "DaemonHeartbeatLost": [
        Case(
            {_DAGSTER: "1x300", _mp("daemon_heartbeat_age_seconds", daemon="sensor"): "0+60x300"},
            at="10m",
            fires=({**JOB, "daemon": "sensor"},),
        ),
        Case({_DAGSTER: "1x300"}, at="5m", fires=({**JOB, "source": "dagster"},)),  # none has ever signed
        Case({_DAGSTER: "1x300", _mp("daemon_heartbeat_age_seconds", daemon="sensor"): "30x300"}),
        Case({_DAGSTER: "0x300"}, at="5m"),  # not known: another alert says so
    ],
    "CertificateEnds": [
        Case(
            {_mp("certificate_expiry_seconds", service="gateway"): "1209700-60x300"},
            at="30m",
            fires=({**JOB, "service": "gateway"},),
        ),
        Case({_mp("certificate_expiry_seconds", service="gateway"): "1296000x300"}),
    ],
    "ServiceDown": [
        Case({_mp("service_up", service="viewer"): "0x300"}, at="5m", fires=({**JOB, "service": "viewer"},)),
        Case({_mp("service_up", service="viewer"): "1x8 0x1 1x300"}, at="10m"),  # a restart
    ],
    "ManyFailures": [
        Case(_failures("0x100 0+1x30 30x300", "0+1x300"), at="2h30m", fires=({"stage": "ocr"},)),
        Case(_failures("0x100 9x300", "1x300"), at="2h"),  # few
        Case(_failures("0x100 0+1x30 30x300", "0+10x300"), at="2h30m"),  # many among very many
        Case(_failures("30x100 0x300", "1x300"), at="2h"),  # mended
    ],
    "SourceUnreadable": [
        Case({_mp("exporter_source_up", source="gpu"): "0x300"}, at="15m", fires=({**JOB, "source": "gpu"},)),
        Case({_mp("exporter_source_up", source="gpu"): "1x5 0x8 1x300"}, at="13m"),
    ],
    "ExporterAbsent": [
        Case({next(iter(UP)): "1x10 0x300"}, at="20m", fires=(JOB,)),
        Case({next(iter(UP)): "_x300"}, at="20m", fires=({"job": "media-pipeline"},)),
        Case({}, at="20m"),
    ],
    "AlertsNotDelivered": [
        Case(
            {'alertmanager_notifications_failed_total{integration="email",job="alertmanager"}': "0x30 0+1x300"},
            at="50m",
            fires=({"integration": "email"},),
        ),
        Case({'alertmanager_notifications_failed_total{integration="email",job="alertmanager"}': "5x300"}),
    ],
}
