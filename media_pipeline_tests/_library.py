"""A small library of known rows, for tests that ask it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from media_pipeline.storage import schemas
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

EMBEDDINGS = pa.schema([("media_id", pa.string()), ("row_index", pa.int32()), ("embedding", pa.list_(pa.float32(), 4))])
VIEWS = {
    "media": schemas.MEDIA,
    "frames": schemas.FRAMES,
    "analyses": schemas.ANALYSES,
    "text_embeddings": EMBEDDINGS,
}
ADDED = datetime(2026, 1, 1, tzinfo=UTC)


class Library:
    """A home with empty tables; `put` fills them. Few views are quick to make."""

    def __init__(self, home: Path, views: Collection[str] = tuple(VIEWS)) -> None:
        self.layout = Layout(home)
        self.layout.create()
        self.tables = Tables(self.layout.tables, self.layout.locks)
        self.sources = pa.table({"path": ["inbox/a.jpg", "inbox/copy.jpg"], "media_id": ["a", "a"]})
        self.catalog = Catalog(
            self.layout, self.tables, {v: VIEWS[v] for v in views}, {"sources": lambda: self.sources}
        )

    def put(self, name: str, rows: list[dict[str, Any]]) -> None:
        schema = {**VIEWS, "duplicate_pairs": schemas.DUPLICATE_PAIRS}[name]
        self.tables.ensure(name, schema)
        table = pa.Table.from_pylist(rows, schema=schema)
        self.tables.replace(name, table, set(table["media_id"].to_pylist()))

    def put_media(self, *media_ids: str) -> None:
        """Media added one day after the other, in this order."""
        self.put(
            "media",
            [
                {"media_id": m, "name": f"{m}.jpg", "kind": "image", "added_at": ADDED + timedelta(days=day)}
                for day, m in enumerate(media_ids)
            ],
        )
