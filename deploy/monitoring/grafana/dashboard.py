"""The dashboard as code: `python deploy/monitoring/grafana/dashboard.py` writes dashboards/media-pipeline.json.

A test compares the two, and asks a Prometheus every question of every panel.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from panels import DAYS, HOURS, MINUTES, Panel, Query, Row, Style, placed

TARGET = Path(__file__).resolve().parent / "dashboards" / "media-pipeline.json"


def _stat(title: str, expr: str, unit: str = "short", **more: Any) -> Panel:
    return Panel(title, [Query(expr, instant=True)], "stat", unit, 3, 4, **more)


def _mp(name: str) -> str:
    return f"media_pipeline_{name}"


_HOUR_TOO_LONG = ((None, "green"), (3600, "orange"), (7200, "red"))
_UP = {"0": ("down", "red"), "1": ("up", "green")}
_FILES_PER_HOUR = f"sum(increase({_mp('media_finished_total')}[1h]))"

ROWS = (
    Row(
        "Now",
        (
            _stat("Waiting", f"sum({_mp('media_waiting')})", text="Files in the queue or in the hands of a run."),
            _stat("Oldest waiting", f"max({_mp('media_oldest_waiting_age_seconds')})", "s", steps=_HOUR_TOO_LONG),
            _stat("Files / hour", _FILES_PER_HOUR, decimals=0),
            _stat("Given up", f"sum({_mp('media_given_up')})", steps=((None, "green"), (1, "red"))),
            _stat(
                "Disk free",
                f"min({_mp('disk_free_bytes')} / {_mp('disk_size_bytes')})",
                "percentunit",
                decimals=0,
                steps=((None, "red"), (0.1, "orange"), (0.2, "green")),
            ),
            _stat(
                "Oldest backup",
                f"max({_mp('backup_age_seconds')}) / 3600",
                HOURS,
                decimals=1,
                steps=((None, "green"), (26, "orange"), (36, "red")),
            ),
            _stat(
                "Certificate",
                f"min({_mp('certificate_expiry_seconds')}) / 86400",
                DAYS,
                text="Ends in so many days.",
                decimals=0,
                negative=True,
                steps=((None, "red"), (14, "orange"), (21, "green")),
            ),
            _stat(
                "Alerts",
                'count(ALERTS{alertstate="firing"}) or vector(0)',
                steps=((None, "green"), (1, "red")),
            ),
            Panel(
                "Firing alerts",
                [Query('ALERTS{alertstate="firing"}', instant=True)],
                "table",
                width=24,
                height=5,
                text="What each means and what to do: docs/operations-alerts.md",
                styles=[Style("severity", width=200, colours={"critical": "red", "warning": "orange"})],
            ),
        ),
    ),
    Row(
        "Queue and throughput",
        (
            Panel("Queue", [Query(f"sum({_mp('media_waiting')})", "waiting")], decimals=0),
            Panel(
                "Files per hour",
                [Query(_FILES_PER_HOUR, "files")],
                decimals=0,
                text="Finished within the hour before.",
            ),
            Panel("Media", [Query(f"sum({_mp('media')})", "media")], decimals=0),
        ),
    ),
    Row(
        "Failures",
        (
            Panel(
                "Standing failures by reason",
                [Query(f"sum by (reason) ({_mp('failures')})", "{{reason}}")],
                decimals=0,
                stacked=True,
            ),
            Panel(
                "Standing failures by stage",
                [Query(f"topk(10, sum by (stage) ({_mp('failures')}))", "{{stage}}", instant=True)],
                "bargauge",
                text="The ten stages with the most.",
                decimals=0,
                steps=((None, "green"), (1, "orange"), (100, "red")),
            ),
            Panel(
                "Files not taken, by reason",
                [Query(f"sum by (reason) ({_mp('files_refused')})", "{{reason}}")],
                decimals=0,
                stacked=True,
            ),
        ),
    ),
    Row(
        "Analyzers",
        (
            Panel(
                "CPU time per file",
                [
                    Query(
                        f"topk(10, max by (analyzer) ({_mp('analyzer_cpu_seconds_per_medium')}))",
                        "{{analyzer}}",
                        instant=True,
                    )
                ],
                "bargauge",
                "s",
                text="The ten slowest analyzers.",
            ),
            Panel(
                "Results by status",
                [Query(f"sum by (status) ({_mp('pairs')})", "{{status}}")],
                text="Pairs of a file and a stage. Unavailable: the model is missing.",
                decimals=0,
                styles=[Style("done", "green"), Style("failed", "red"), Style("unavailable", "orange")],
            ),
            Panel(
                "Stale results by stage",
                [Query(f"topk(10, sum by (stage) ({_mp('pairs_stale')}))", "{{stage}}", instant=True)],
                "bargauge",
                text="Made anew at night, or now by `media-pipeline reprocess`.",
            ),
            Panel(
                "Models",
                [Query(f"{_mp('analyzer_model_info')}", instant=True)],
                "table",
                width=24,
                height=16,
                text="What each analyzer has now; tier none: no model.",
                styles=[Style("analyzer", width=260), Style("tier", width=200, colours={"none": "orange"})],
            ),
        ),
    ),
    Row(
        "Home",
        (
            Panel(
                "Disk",
                [Query(f"max({_mp('disk_free_bytes')})", "free"), Query(f"max({_mp('disk_size_bytes')})", "size")],
                unit="bytes",
                width=12,
            ),
            Panel(
                "What takes the room",
                [Query(f"max by (what) ({_mp('stored_bytes')})", "{{what}}")],
                unit="bytes",
                width=12,
                stacked=True,
            ),
        ),
    ),
    Row(
        "Dagster",
        (
            Panel(
                "Runs",
                [
                    Query(
                        f'sum by (status) ({_mp("runs")}{{status=~"queued|starting|started|canceling"}})', "{{status}}"
                    )
                ],
                decimals=0,
                stepped=True,
            ),
            Panel(
                "Runs of the last hour",
                [
                    Query(f"max({_mp('runs_ended_last_hour')})", "ended"),
                    Query(f"max({_mp('run_mean_duration_seconds')}) / 60", "mean length"),
                ],
                decimals=0,
                styles=[Style("mean length", right_unit=MINUTES)],
            ),
            Panel(
                "Last sign of life of the daemons",
                [Query(f"max by (daemon) ({_mp('daemon_heartbeat_age_seconds')}) / 60", "{{daemon}}")],
                unit=MINUTES,
                filled=False,
                legend="right",
                steps=((None, "transparent"), (5, "red")),
            ),
        ),
    ),
    Row(
        "Rented GPUs",
        (
            Panel(
                "Spent of the limit",
                [
                    Query(
                        f"max by (period) ({_mp('gpu_spent_usd')})"
                        f" / clamp_min(max by (period) ({_mp('gpu_limit_usd')}), 0.01)",
                        "{{period}}",
                        instant=True,
                    )
                ],
                "gauge",
                "percentunit",
                steps=((None, "green"), (0.8, "orange"), (1, "red")),
                maximum=1,
            ),
            Panel(
                "Money",
                [
                    Query(f"max by (period) ({_mp('gpu_spent_usd')})", "spent, {{period}}"),
                    Query(f"max by (period) ({_mp('gpu_limit_usd')})", "limit, {{period}}"),
                    Query(f"max({_mp('gpu_reserved_usd')})", "reserved"),
                ],
                unit="currencyUSD",
                stepped=True,
                styles=[
                    Style("/^limit/", dashed=True),
                    *(Style(f"{what}, day", "green") for what in ("spent", "limit")),
                    *(Style(f"{what}, month", "blue") for what in ("spent", "limit")),
                    Style("reserved", "orange"),
                ],
            ),
            Panel(
                "Machines",
                [
                    Query(f"max({_mp('leases_open')})", "open"),
                    Query(f"max({_mp('lease_oldest_age_seconds')}) / 3600", "age of the oldest"),
                ],
                decimals=0,
                stepped=True,
                styles=[Style("age of the oldest", right_unit=HOURS)],
            ),
        ),
    ),
    Row(
        "Backup, certificate, services",
        (
            Panel(
                "Age of the last good backup",
                [Query(f"max by (kind) ({_mp('backup_age_seconds')}) / 3600", "{{kind}}")],
                unit=HOURS,
                filled=False,
                steps=((None, "transparent"), (36, "red")),
            ),
            Panel(
                "Added by the last backup",
                [Query(f"max by (kind) ({_mp('backup_last_added_bytes')})", "{{kind}}")],
                unit="bytes",
            ),
            Panel(
                "Certificate ends in",
                [Query(f"min by (service) ({_mp('certificate_expiry_seconds')}) / 86400", "{{service}}")],
                unit=DAYS,
                decimals=0,
                negative=True,
                steps=((None, "red"), (14, "transparent")),
            ),
            Panel(
                "Services",
                [Query(f"min by (service) ({_mp('service_up')})", "{{service}}")],
                "state-timeline",
                width=12,
                mappings=_UP,
                steps=((None, "red"), (1, "green")),
            ),
            Panel(
                "Sources of these numbers",
                [Query(f"min by (source) ({_mp('exporter_source_up')})", "{{source}}")],
                "state-timeline",
                width=12,
                mappings=_UP,
                text="Alerts that rest on a source that cannot be read are blind; /healthz says why.",
                steps=((None, "red"), (1, "green")),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    return {
        "uid": "media-pipeline",
        "title": "media-pipeline",
        "description": "What waits, what was done, what failed, what it costs. Alerts: docs/operations-alerts.md",
        "tags": ["media-pipeline"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [],
        "panels": list(placed(ROWS)),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"{TARGET.name}: {sum(len(row.panels) for row in ROWS)} panels", file=sys.stderr)
