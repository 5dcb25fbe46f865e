"""What panels are made of, and their JSON as Grafana 12 reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "media-pipeline"}
WIDTH = 24  # columns of Grafana's grid

# Units of our own: Grafana turns seconds into "8.57 weeks", and puts ticks at 3.33 minutes.
DAYS, HOURS, MINUTES = "suffix:days", "suffix:h", "suffix:min"


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True)
class Style:
    """Of some series of a panel, what is different from the others; `None` is as the others have it."""

    series: str  # name, or /regular expression/
    colour: str | None = None
    dashed: bool = False
    right_unit: str | None = None  # on an axis of its own, in this unit
    width: int | None = None  # of a column, in pixels
    colours: dict[str, str] = field(default_factory=dict)  # of a column's text, by what it says


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
    decimals: int | None = None
    negative: bool = False  # values below zero are shown
    stacked: bool = False
    stepped: bool = False  # what is counted jumps
    filled: bool = True
    legend: str = "bottom"
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)  # value -> (text, colour)
    styles: Sequence[Style] = ()


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


def placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
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
    found: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [_override(style) for style in panel.styles]},
        "options": _options(panel),
        "targets": [_target(query, ref) for query, ref in zip(panel.queries, "ABCDEF", strict=False)],
    }
    if panel.kind == "table":
        found["targets"][0]["format"] = "table"
        hidden = dict.fromkeys(("Time", "Value", "__name__", "alertstate", "instance", "job"), True)
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return found


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in panel.steps],
        },
        "mappings": _mappings(panel),
    }
    if not panel.negative:
        found["min"] = 0
    if panel.maximum is not None:
        found["max"] = panel.maximum
    if panel.decimals is not None:
        found["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        found["custom"] = _drawn(panel)
    return found


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"type": "value", "options": {value: {"text": text, "color": colour, "index": index}}}
        for index, (value, (text, colour)) in enumerate(panel.mappings.items())
    ]
    if panel.kind in ("stat", "gauge", "bargauge"):
        # Else nothing has the colour of the lowest step: green without a backup, red without a certificate.
        nothing = {"text": "no data", "color": "text", "index": len(found)}
        found.append({"type": "special", "options": {"match": "null+nan", "result": nothing}})
    return found


def _drawn(panel: Panel) -> dict[str, Any]:
    found = {
        "drawStyle": "line",
        # A line on top of an area of no height would look like one of the area below it.
        "lineWidth": 0 if panel.stacked else 1,
        "lineInterpolation": "stepAfter" if panel.stepped else "linear",
        "fillOpacity": 60 if panel.stacked else 8 if panel.filled else 0,
        "axisSoftMin": 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    if len(panel.steps) > 1:
        found["thresholdsStyle"] = {"mode": "dashed"}
    return found


def _override(style: Style) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if style.colour:
        properties["color"] = {"mode": "fixed", "fixedColor": style.colour}
    if style.dashed:
        properties["custom.lineStyle"] = {"fill": "dash", "dash": [8, 6]}
        properties["custom.fillOpacity"] = 0
    if style.right_unit:
        properties["unit"] = style.right_unit
        properties["decimals"] = None
        properties["custom.axisPlacement"] = "right"
        properties["custom.lineInterpolation"] = "linear"
        properties["custom.fillOpacity"] = 0
    if style.width:
        properties["custom.width"] = style.width
    if style.colours:
        options = {
            said: {"text": said, "color": colour, "index": index}
            for index, (said, colour) in enumerate(style.colours.items())
        }
        properties["custom.cellOptions"] = {"type": "color-text"}
        properties["mappings"] = [{"type": "value", "options": options}]
    return {
        "matcher": {"id": "byRegexp" if style.series.startswith("/") else "byName", "options": style.series},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


_REDUCED = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
_LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {**_REDUCED, "colorMode": "value", "graphMode": "none", "justifyMode": "center", "textMode": "value"},
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


def _options(panel: Panel) -> dict[str, Any]:
    found = dict(_OPTIONS[panel.kind])
    if panel.kind == "timeseries":
        # Of a single series the title says it all.
        several = len(panel.queries) > 1 or "{{" in panel.queries[0].legend
        found["legend"] = {**_LEGEND, "showLegend": several, "placement": panel.legend}
    return found


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
