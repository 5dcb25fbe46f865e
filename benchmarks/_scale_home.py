"""Building the synthetic home: what intake, runs and Dagster would have left behind, through the same storage code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks._scale_data import Batch, Models, added_at, batches, file_name, media_id, partition_key
from media_pipeline.analyzers import faces, text_embeddings
from media_pipeline.analyzers._face_weights import weights
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import announce
from media_pipeline.errors import ModelUnavailable
from media_pipeline.execution.judging import NO_INPUT, NO_RESULT
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.stages import effective_fingerprint, options_for
from media_pipeline.results.search import refresh_people_indexes, refresh_text_index
from media_pipeline.storage.ledger import Entry
from media_pipeline.storage.schemas import ANALYSES

BATCH = 500  # media per commit: the first filling of a library, not its daily life
INDEX_EVERY = 20  # batches
MODEL = "synthetic"
Say = Callable[[str], None]


def models_of(pipeline: Pipeline) -> Models:
    """The models that are here, so that searches load and use them as in a real home."""
    settings, store = pipeline.settings, pipeline.models
    text = text_embeddings.ANALYZER.choose(options_for(text_embeddings.ANALYZER, settings), store)
    face = faces.ANALYZER.choose(options_for(faces.ANALYZER, settings), store)
    return Models(text_embeddings.fingerprint(text), weights(face.path).model)


def build(pipeline: Pipeline, media: int, say: Say) -> dict[str, float]:
    """Fills an empty home; seconds by part."""
    spent: dict[str, float] = {}
    pipeline.ensure_tables()
    models, ledger = models_of(pipeline), LedgerRows(pipeline)
    with _Timed(spent, "inbox and sources"):
        register(pipeline, range(media))
    for number, made in enumerate(batches(media, BATCH, models), start=1):
        with _Timed(spent, "tables"):
            write(pipeline, made, ledger)
        if number % INDEX_EVERY == 0 or made.numbers.stop == media:
            say(f"{made.numbers.stop} media")
            with _Timed(spent, "indexes"):
                refresh_indexes(pipeline)
    with _Timed(spent, "Dagster partitions"), open_instance(pipeline.settings) as instance:
        announce(instance, [partition_key(n) for n in range(media)])
    with _Timed(spent, "warehouse"):
        pipeline.catalog.publish()
    return spent


class _Timed:
    """Adds the seconds of its block to an entry."""

    def __init__(self, spent: dict[str, float], name: str) -> None:
        self._spent, self._name = spent, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._spent[self._name] = self._spent.get(self._name, 0.0) + time.monotonic() - self._began


def register(pipeline: Pipeline, numbers: range) -> None:
    """Files in the inbox, taken as intake takes them."""
    ids = []
    for number in numbers:
        path = pipeline.layout.inbox / file_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media %d" % number)
        stored = pipeline.layout.originals / media_id(number)[:2] / media_id(number)
        pipeline.sources.add(
            path, path.stat(), media_id=media_id(number), partition_key=partition_key(number), stored=stored
        )
        ids.append(media_id(number))
    pipeline.sources.mark_announced(ids)


def write(pipeline: Pipeline, made: Batch, ledger: LedgerRows) -> None:
    for name, rows in made.tables.items():
        pipeline.tables.replace(name, rows, made.ids)
    pipeline.tables.replace("analyses", ledger.of(made), made.ids)


def refresh_indexes(pipeline: Pipeline) -> None:
    refresh_text_index(pipeline.tables, pipeline.layout, pipeline.settings, pipeline.models)
    refresh_people_indexes(pipeline.tables, pipeline.layout, pipeline.settings)


class LedgerRows:
    """What the ledger says of a library in which everything is done and current."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.stages = pipeline.judge.stages
        self._own = {name: pipeline.judge.own_fingerprint(name) for name in self.stages}
        self._fingerprints: dict[tuple[bool, bool], dict[str, str | None]] = {
            (seen, heard): self._of_kind({"frames": seen, "audio": heard})
            for seen, heard in ((True, False), (True, True), (False, True))
        }

    def of(self, made: Batch) -> pa.Table:
        """Rows of `analyses` for a batch, as `Ledger.record` would have written them."""
        return pa.Table.from_pylist([_as_row(entry) for entry in self.entries(made)], schema=ANALYSES)

    def entries(self, made: Batch) -> Iterator[Entry]:
        counts = {name: _counts(table) for name, table in made.tables.items()}
        for number, medium, kind in zip(made.numbers, made.ids, made.kinds, strict=True):
            found = self._fingerprints[kind != "audio", kind != "image"]
            at = added_at(number) + timedelta(minutes=5)
            for name, stage in self.stages.items():
                fingerprint = found[name]
                yield Entry(
                    media_id=medium,
                    analyzer=name,
                    fingerprint=fingerprint or "",
                    status="unavailable" if fingerprint is None else "done",
                    reason="no model" if fingerprint is None else None,
                    rows=int(kind != "image") if name == "audio" else counts.get(name, {}).get(medium, 0),
                    seconds=0.2,
                    device="cpu",
                    model=MODEL if name not in ("media", "frames", "audio") else None,
                    run_id=f"run-{number // 64:06d}",
                    at=at,
                    version=stage.version,
                    options=stage.options_digest,
                )

    def _of_kind(self, has: Mapping[str, bool]) -> dict[str, str | None]:
        """Fingerprints by stage of media that have pictures or sound; None where the model is missing."""
        found: dict[str, str | None] = {}
        for name, stage in self.stages.items():
            decoded = [need for need in stage.needs if need in has]
            own = self._own[name]
            if decoded and not any(has[need] for need in decoded):
                own = NO_INPUT
            if isinstance(own, ModelUnavailable):
                found[name] = None
            else:
                found[name] = effective_fingerprint(own, {need: found[need] or NO_RESULT for need in stage.needs})
        return found


def _counts(table: pa.Table) -> dict[str, int]:
    counted = table["media_id"].value_counts()
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _as_row(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in ANALYSES.names}


def folder_bytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in _files(folder))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))
