"""A home full of traces, made without a model: files, rows of every kind, decisions, former results, an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline, table_schemas
from media_pipeline.media.intake import Intake
from media_pipeline.results.identities import PERSONS, Identities
from media_pipeline.storage.identities import Decisions, Sample
from media_pipeline.storage.ledger import Entry
from media_pipeline_tests._identity_home import ADDED

MODEL = "m1@1"
FINGERPRINT = "f" * 16


def vector(seed: str, size: int) -> np.ndarray:
    dice = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()[:4], "big"))
    found = dice.normal(size=size).astype(np.float32)
    return found / np.linalg.norm(found)


@dataclass
class ErasureHome:
    pipeline: Pipeline
    ids: dict[str, str] = field(default_factory=dict)  # media_id by name

    @property
    def home(self) -> Path:
        return self.pipeline.layout.home

    @property
    def inbox(self) -> Path:
        return self.pipeline.layout.inbox

    def add(self, name: str, who: str = "somebody", text: str | None = None, folder: Path | None = None) -> str:
        """One medium of which all stages say something; `who` is to be seen in it."""
        file = (folder or self.inbox) / f"{name}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"content of {name}".encode() * 50)
        report = Intake(self.pipeline.layout, self.pipeline.sources, self.pipeline.settings).take([file], wait=True)
        [known] = [*report.new, *report.known]
        media_id = self.ids[name] = known.media_id
        text = text or f"What is written in {name} is nobody's business"
        self.put("media", media_id, partition_key=known.partition_key, name=file.name, kind="image", added_at=ADDED)
        self.put("ocr", media_id, frame_index=0, line_index=0, text=text)
        self.put("text_embeddings", media_id, text=text, source="ocr", embedding=vector(name, 384), model=MODEL)
        self.put("frames", media_id, frame_index=0, phash=sha256(name.encode()).hexdigest()[:16])
        self.see(name, {0: who})
        cached = self.pipeline.cache.incoming(media_id)
        cached.rename(_made(self.pipeline.layout.cache / media_id[:2]) / media_id)
        folder = self.pipeline.layout.cache / media_id[:2] / media_id
        (folder / "thumbnail.jpg").write_bytes(vector(f"picture of {name}", 300).tobytes())
        (folder / "frames.arrow").write_bytes(vector(f"frames of {name}", 3000).tobytes())
        self.pipeline.ledger.record(
            [_entry(media_id, n, rows) for n, rows in (("ocr", 1), ("faces", 1), ("emotion", 1))]
        )
        self.pipeline.kept.put("ocr", self._rows("ocr", media_id, text=f"{text} before"), [_entry(media_id, "ocr", 1)])
        self.pipeline.kept.put("faces", self._faces(name, {0: who}), [_entry(media_id, "faces", 1)])
        return media_id

    def see(self, name: str, tracks: dict[int, str]) -> None:
        """Who is to be seen in a medium, by track."""
        media_id = self.ids[name]
        self.put_all("faces", media_id, self._faces(name, tracks))
        emotions = [{"source": "face", "track_index": track, "label": "happy"} for track in tracks]
        self.put_all("emotion", media_id, self._rows("emotion", media_id, *emotions))

    def identify(self) -> None:
        for kind in (PERSONS,):
            with closing(Identities(kind, self.pipeline.tables, self.pipeline.layout, lambda *_: 0.5)) as identities:
                identities.update(list(self.ids.values()))

    def person_in(self, name: str, track: int = 0) -> str:
        rows = self.pipeline.tables.read("face_persons", [self.ids[name]]).to_pylist()
        return next(row["person_id"] for row in rows if row["track_index"] == track)

    def name_person(self, person: str, name: str) -> None:
        with closing(Identities(PERSONS, self.pipeline.tables, self.pipeline.layout, lambda *_: 0.5)) as identities:
            identities.name(person, name)

    def enrol(self, person: str, name: str) -> np.ndarray:
        sample = vector(f"sample of {name}", 128)
        with closing(Decisions.of(self.pipeline.layout)) as decisions:
            decisions.enrol("person", Sample(person, "sample.jpg", MODEL, sample), name)
        return sample

    def put(self, table: str, media_id: str, **row: Any) -> None:
        self.put_all(table, media_id, self._rows(table, media_id, row))

    def put_all(self, table: str, media_id: str, rows: pa.Table) -> None:
        self.pipeline.tables.ensure(table, table_schemas()[table])
        self.pipeline.tables.replace(table, rows, [media_id])

    def _rows(self, table: str, media_id: str, *rows: dict[str, Any], **row: Any) -> pa.Table:
        full = [{"media_id": media_id, **one} for one in (*rows, *([row] if row else []))]
        return pa.Table.from_pylist(full, schema=table_schemas()[table])

    def _faces(self, name: str, tracks: dict[int, str]) -> pa.Table:
        faces = [
            {
                "frame_index": 0,
                "pts_s": 0.0,
                "face_index": track,
                "track_index": track,
                "quality": 0.9,
                "x1": 100.0 * track,
                "y1": 0.0,
                "x2": 100.0 * track + 90,
                "y2": 90.0,
                "embedding": _look(who, name),
                "model": MODEL,
            }
            for track, who in tracks.items()
        ]
        return self._rows("faces", self.ids[name], *faces)


def erasure_home(home: Path, **settings: Any) -> ErasureHome:
    return ErasureHome(Pipeline(load_settings(home=home, settle_s=0.0, min_free_bytes=1, **settings)))


@dataclass
class QuietEngine:
    """An orchestrator that has nothing to do with these media, unless `busy` says so."""

    busy: list[list[str]] = field(default_factory=list)  # one answer per question, then nothing
    forgotten: list[tuple[list[str], list[str]]] = field(default_factory=list)
    fails: int = 0  # how often forgetting breaks off

    def in_hand(self, partition_keys: Sequence[str]) -> list[str]:
        return self.busy.pop(0) if self.busy else []

    def count(self, partition_keys: Sequence[str]) -> dict[str, int]:
        return {}

    def forget(self, partition_keys: Sequence[str], words: Iterable[str] = (), *, thorough: bool = False) -> None:
        if self.fails:
            self.fails -= 1
            raise KeyboardInterrupt
        self.forgotten.append((list(partition_keys), list(words)))

    def contents(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        return iter(())


def _look(who: str, shot: str) -> np.ndarray:
    found = vector(who, 128) + 0.3 * vector(f"{who}/{shot}", 128)
    return found / np.linalg.norm(found)


def _entry(media_id: str, analyzer: str, rows: int) -> Entry:
    return Entry(media_id, analyzer, FINGERPRINT, "done", None, rows, 0.1, "cpu", MODEL, None, ADDED)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
