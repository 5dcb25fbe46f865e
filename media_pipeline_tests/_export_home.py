"""A home with known rows of every kind that exports speak of, made without media."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from click.testing import CliRunner, Result

from media_pipeline.cli.context import App
from media_pipeline.cli.export import export
from media_pipeline.execution.pipeline import Pipeline, table_schemas

AT = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
Row = dict[str, Any]


def media_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def key(name: str) -> str:
    return f"{name}~{media_id(name)[:12]}"


@dataclass(frozen=True)
class ExportHome:
    app: App

    @property
    def pipeline(self) -> Pipeline:
        return self.app.pipeline

    def put(self, table: str, rows: Mapping[str, Sequence[Row]]) -> None:
        """Replaces the rows of these media (by name)."""
        filled = [{"media_id": media_id(name), **row} for name, own in rows.items() for row in own]
        self.replace(table, filled, [media_id(name) for name in rows])

    def replace(self, table: str, rows: Sequence[Row], media_ids: Sequence[str] = ()) -> None:
        """Replaces the rows of these media, and of those that the rows name."""
        schema = table_schemas()[table]
        self.pipeline.tables.ensure(table, schema)
        ids = {*media_ids, *(row["media_id"] for row in rows)}
        self.pipeline.tables.replace(table, pa.Table.from_pylist(list(rows), schema=schema), ids)

    def add(self, name: str, kind: str = "video", **tables: Sequence[Row]) -> str:
        """A medium with these rows; the ledger says that each table is done. Returns its media_id."""
        facts = {"partition_key": key(name), "name": f"{name}.mp4", "path": f"/x/{name}.mp4", "kind": kind}
        self.put("media", {name: [{**facts, "added_at": AT, "width": 640, "height": 480}]})
        for table, rows in tables.items():
            self.put(table, {name: rows})
        done = [
            {"analyzer": table, "status": "done", "fingerprint": "f", "rows": len(rows), "model": f"{table}-model"}
            for table, rows in tables.items()
        ]
        self.put("analyses", {name: [{**entry, "at": AT} for entry in done]})
        return media_id(name)

    def export(self, *args: str | Path) -> Result:
        return CliRunner().invoke(export, [str(arg) for arg in args], obj=self.app, standalone_mode=False)


def export_home(folder: Path) -> ExportHome:
    return ExportHome(App(home=folder))


def segment(start_s: float, end_s: float, text: str, speaker: str | None = None, **more: Any) -> Row:
    return {"start_s": start_s, "end_s": end_s, "text": text, "speaker": speaker, "language": "en", **more}


def box(x1: float, y1: float, x2: float, y2: float, frame_index: int = 0, **more: Any) -> Row:
    return {"frame_index": frame_index, "pts_s": frame_index / 25, "score": 0.9} | {
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        **more,
    }


def frame(frame_index: int = 0, width: int = 640, height: int = 480) -> Row:
    return {"frame_index": frame_index, "pts_s": frame_index / 25, "width": width, "height": height}
