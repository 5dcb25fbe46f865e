"""A table of texts, for tests of how tables are stored."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from media_pipeline.storage.tables import Tables

SCHEMA = pa.schema([("media_id", pa.string()), ("text", pa.string())])


def at(folder: Path) -> Tables:
    """As a process that has just started has them."""
    return Tables(folder / "tables", folder / "locks")


def with_texts(folder: Path) -> Tables:
    """With a table `ocr`."""
    tables = at(folder)
    tables.ensure("ocr", SCHEMA)
    return tables


def put(tables: Tables, media_ids: list[str], text: str = "x") -> None:
    tables.replace("ocr", pa.table({"media_id": media_ids, "text": [text] * len(media_ids)}), media_ids)
