"""A home of media that were never decoded: sources, originals, rows and ledger, as a run would have left them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from media_pipeline.config import Retention, load_settings
from media_pipeline.execution.pipeline import Pipeline, table_schemas
from media_pipeline.media.cache import FACTS_FILE
from media_pipeline.media.partition_key import partition_key
from media_pipeline.storage import schemas
from media_pipeline.storage.ledger import Entry
from media_pipeline.storage.sources import KnownMedium

NOW = datetime.now(UTC)
STAGES = ("media", "frames", "audio", "ocr")
TABLES = table_schemas()


def opened(home: Path, **terms: object) -> Pipeline:
    retention = Retention.model_validate(terms)
    return Pipeline(load_settings(home=home, offline=True, min_free_bytes=0, settle_s=0.0, retention=retention))


def days(count: float) -> datetime:
    """So many days from now."""
    return NOW + timedelta(days=count)


def add(pipeline: Pipeline, *names: str, linked: bool = False, settled: bool = True) -> list[KnownMedium]:
    """Media with rows; the suffix says the kind: .jpg, .mp4, .wav, or none at all."""
    made = []
    for name in names:
        path = pipeline.layout.inbox / name
        path.write_bytes(name.encode())
        media_id = hashlib.sha256(name.encode()).hexdigest()
        stored = path
        if not linked:
            stored = pipeline.layout.originals / media_id[:2] / media_id
            stored.parent.mkdir(exist_ok=True)
            stored.write_bytes(name.encode())
        key = partition_key(name, media_id)
        medium, _ = pipeline.sources.add(
            path, path.stat(), media_id=media_id, partition_key=key, stored=stored, linked=linked
        )
        made.append(medium)
    if settled:
        pipeline.sources.mark_announced([medium.media_id for medium in made])
    analysed(pipeline, made)
    return made


def analysed(pipeline: Pipeline, media: Sequence[KnownMedium], failed: Sequence[str] = ()) -> None:
    """Rows of `media` and `ocr`, and entries of the ledger; `failed` are stages."""
    for name in ("media", "ocr"):
        pipeline.tables.ensure(name, TABLES[name])
    ids = [medium.media_id for medium in media]
    kinds = {".jpg": "image", ".mp4": "video", ".wav": "audio"}
    rows = [
        {"media_id": m.media_id, "partition_key": m.partition_key, "name": m.name, "kind": kinds[Path(m.name).suffix],
         "added_at": m.added_at} for m in media if Path(m.name).suffix in kinds
    ]  # fmt: skip
    pipeline.tables.replace("media", pa.Table.from_pylist(rows, schema=schemas.MEDIA), ids)
    text = pa.table({"media_id": ids, "text": [m.name for m in media]})
    pipeline.tables.replace("ocr", text, ids)
    pipeline.ledger.record([
        Entry(m.media_id, stage, f"{stage}-1", "failed" if stage in failed else "done", None, 1, 0.5, "cpu", None, "r",
              NOW, "1", "0")
        for m in media for stage in STAGES
    ])  # fmt: skip


def cached(pipeline: Pipeline, medium: KnownMedium, size: int = 100) -> Path:
    """An entry of the cache."""
    folder = pipeline.cache.root / medium.media_id[:2] / medium.media_id
    folder.mkdir(parents=True)
    (folder / FACTS_FILE).write_bytes(b" " * size)
    return folder
