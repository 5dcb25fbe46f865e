"""The dashboard as code: `python deploy/monitoring/grafana/dashboard.py` writes dashboards/media-pipeline.json.

A test compares the two, and asks a Prometheus every question of every panel.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent / "dashboards" / "media-pipeline.json"
DATASOURCE = {"type": "prometheus", "uid": "media-pipeline"}
WIDTH = 24  # columns of Grafana's grid


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture. `steps`: from which value on it is of which colour."""

    title: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 7
    text: str = ""
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    maximum: float | None = None
    stacked: bool = False
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)  # value -> (text, colour)


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


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
            _stat("Files in the last hour", _FILES_PER_HOUR),
            _stat("Given up", f"sum({_mp('media_given_up')})", steps=((None, "green"), (1, "red"))),
            _stat(
                "Disk free",
                f"min({_mp('disk_free_bytes')} / {_mp('disk_size_bytes')})",
                "percentunit",
                steps=((None, "red"), (0.1, "orange"), (0.2, "green")),
            ),
            _stat(
                "Oldest backup",
                f"max({_mp('backup_age_seconds')})",
                "s",
                steps=((None, "green"), (26 * 3600, "orange"), (36 * 3600, "red")),
            ),
            _stat(
                "Certificate ends in",
                f"min({_mp('certificate_expiry_seconds')})",
                "s",
                steps=((None, "red"), (14 * 86400, "orange"), (21 * 86400, "green")),
            ),
            _stat(
                "Alerts",
                'count(ALERTS{alertstate="firing"}) or vector(0)',
                steps=((None, "green"), (1, "red")),
            ),
        ),
    ),
    Row(
        "Queue and throughput",
        (
            Panel("Queue", [Query(f"sum({_mp('media_waiting')})", "waiting")]),
            Panel("Files per hour", [Query(_FILES_PER_HOUR, "files")], text="Finished within the hour before."),
            Panel("Media", [Query(f"sum({_mp('media')})", "media")]),
        ),
    ),
    Row(
        "Failures",
        (
            Panel(
                "Standing failures by reason",
                [Query(f"sum by (reason) ({_mp('failures')})", "{{reason}}")],
                stacked=True,
            ),
            Panel(
                "Standing failures by stage",
                [Query(f"sort_desc(sum by (stage) ({_mp('failures')}))", "{{stage}}", instant=True)],
                "bargauge",
                steps=((None, "green"), (1, "orange"), (100, "red")),
            ),
            Panel(
                "Files not taken, by reason",
                [Query(f"sum by (reason) ({_mp('files_refused')})", "{{reason}}")],
                stacked=True,
            ),
        ),
    ),
    Row(
        "Analyzers",
        (
            Panel(
                "CPU seconds per file",
                [
                    Query(
                        f"sort_desc(max by (analyzer) ({_mp('analyzer_cpu_seconds_per_medium')}))",
                        "{{analyzer}}",
                        instant=True,
                    )
                ],
                "bargauge",
                "s",
            ),
            Panel(
                "Results by status",
                [Query(f"sum by (status) ({_mp('pairs')})", "{{status}}")],
                text="Pairs of a file and a stage. Unavailable: the model is missing.",
            ),
            Panel(
                "Stale results by stage",
                [Query(f"sort_desc({_mp('pairs_stale')})", "{{stage}}", instant=True)],
                "bargauge",
                text="Made anew at night, or now by `media-pipeline reprocess`.",
            ),
            Panel(
                "Models",
                [Query(f"{_mp('analyzer_model_info')}", instant=True)],
                "table",
                width=24,
                height=9,
                text="What each analyzer has now; tier none: no model.",
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
            ),
            Panel(
                "Runs of the last hour",
                [
                    Query(f"max({_mp('runs_ended_last_hour')})", "ended"),
                    Query(f"max({_mp('run_mean_duration_seconds')}) / 60", "mean length in minutes"),
                ],
            ),
            Panel(
                "Last sign of life of the daemons",
                [Query(f"max by (daemon) ({_mp('daemon_heartbeat_age_seconds')})", "{{daemon}}")],
                unit="s",
                steps=((None, "green"), (300, "red")),
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
            ),
            Panel(
                "Machines",
                [
                    Query(f"max({_mp('leases_open')})", "open"),
                    Query(f"max({_mp('lease_oldest_age_seconds')}) / 3600", "age of the oldest in hours"),
                ],
            ),
        ),
    ),
    Row(
        "Backup, certificate, services",
        (
            Panel(
                "Age of the last good backup",
                [Query(f"max by (kind) ({_mp('backup_age_seconds')})", "{{kind}}")],
                unit="s",
                steps=((None, "green"), (36 * 3600, "red")),
            ),
            Panel(
                "Added by the last backup",
                [Query(f"max by (kind) ({_mp('backup_last_added_bytes')})", "{{kind}}")],
                unit="bytes",
            ),
            Panel(
                "Certificate ends in",
                [Query(f"min by (service) ({_mp('certificate_expiry_seconds')})", "{{service}}")],
                unit="s",
                steps=((None, "red"), (14 * 86400, "green")),
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
                "What can be read",
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
        "panels": list(_placed(ROWS)),
    }


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Panels from left to right and from top to bottom, each row below its title."""
    number = y = 0
    for row in rows:
        number += 1
        at = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": at, "panels": []}
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            number += 1
            yield _json(panel, number, {"h": panel.height, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _json(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in panel.steps],
        },
        "mappings": [
            {"type": "value", "options": {value: {"text": text, "color": colour, "index": index}}}
            for index, (value, (text, colour)) in enumerate(panel.mappings.items())
        ],
    }
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if "ends in" in panel.title:
        del defaults["min"]  # below 0: it has ended
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        if len(panel.steps) > 1:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    found: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(query, ref) for query, ref in zip(panel.queries, "ABCDEF", strict=False)],
    }
    if panel.kind == "table":
        found["targets"][0]["format"] = "table"
        hidden = dict.fromkeys(("Time", "Value", "__name__", "instance", "job"), True)
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return found


_REDUCED = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
_LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {**_REDUCED, "colorMode": "value", "graphMode": "area", "justifyMode": "center", "textMode": "value"},
    "gauge": {**_REDUCED, "showThresholdLabels": False, "showThresholdMarkers": True},
    "bargauge": {**_REDUCED, "displayMode": "basic", "orientation": "horizontal", "showUnfilled": True},
    "state-timeline": {
        "legend": {**_LEGEND, "showLegend": False},
        "showValue": "never",
        "mergeValues": True,
        "rowHeight": 0.8,
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def _target(query: Query, ref: str) -> dict[str, Any]:
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.instant,
        "range": not query.instant,
        "editorMode": "code",
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"{TARGET.name}: {sum(len(row.panels) for row in ROWS)} panels", file=sys.stderr)
