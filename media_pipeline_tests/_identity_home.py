"""A home with faces and speakers in it, made without media: unit vectors with noise, as the analyzers would write."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.results.identities import PERSONS, VOICES, Identities, Kind, identity_table
from media_pipeline.storage import schemas
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

DIMENSION = 128
THRESHOLD = 0.5
ADDED = datetime(2026, 1, 1, tzinfo=UTC)
FACES = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        ("pts_s", pa.float64()),
        ("face_index", pa.int32()),
        ("track_index", pa.int32()),
        ("score", pa.float32()),
        *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2")),
        ("quality", pa.float32()),
        ("embedding", pa.list_(pa.float32(), DIMENSION)),
        ("model", pa.string()),
    ]
)
SPEAKERS = pa.schema(
    [
        ("media_id", pa.string()),
        ("turn_index", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("speaker", pa.string()),
        ("channel", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
        ("model", pa.string()),
    ]
)
TRANSCRIPT = pa.schema(
    [
        ("media_id", pa.string()),
        ("segment_index", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("channel", pa.int32()),
    ]
)
TABLES = {
    "media": schemas.MEDIA,
    "faces": FACES,
    "speakers": SPEAKERS,
    "transcript": TRANSCRIPT,
    "face_persons": schemas.FACE_PERSONS,
    "speaker_voices": schemas.SPEAKER_VOICES,
}
Array = npt.NDArray[np.float32]


def media_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def unit(vector: npt.NDArray[np.floating[Any]]) -> Array:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def centre(who: str, model: str = "m1@1") -> Array:
    """What a model makes of one person, anywhere in its space."""
    seed = int.from_bytes(hashlib.sha256(f"{model}/{who}".encode()).digest()[:4], "big")
    return unit(np.random.default_rng(seed).normal(size=DIMENSION))


def look(who: str, shot: str, model: str = "m1@1", noise: float = 0.6) -> Array:
    """One picture of a person: two of them have a cosine of about 1 / (1 + noise²)."""
    seed = int.from_bytes(hashlib.sha256(f"{model}/{who}/{shot}".encode()).digest()[:4], "big")
    step = np.random.default_rng(seed).normal(size=DIMENSION)
    return unit(centre(who, model) + noise * unit(step))


@dataclass(frozen=True)
class Face:
    """One track of a medium: who it shows, in which frames, under which number."""

    who: str
    track: int = 0
    frames: tuple[int, ...] = (0,)
    x: float = 0.0  # where its box begins
    noise: float = 0.6
    vector: Array | None = None


@dataclass
class IdentityHome:
    layout: Layout
    tables: Tables
    model: str = "m1@1"
    threshold: float = THRESHOLD
    opened: list[Identities] = field(default_factory=list)

    def show(self, name: str, *faces: Face) -> None:
        """A medium and the faces in it, in the place of what was known of it; not yet identified."""
        self.show_all({name: faces})

    def show_all(self, media: Mapping[str, Sequence[Face]]) -> None:
        rows = [
            {
                "media_id": media_id(name),
                "frame_index": frame,
                "pts_s": frame / 2,
                "face_index": number,
                "track_index": face.track,
                "x1": face.x,
                "y1": 10.0,
                "x2": face.x + 100,
                "y2": 120.0,
                "quality": 0.9,
                "embedding": face.vector
                if face.vector is not None
                else look(face.who, f"{name}/{frame}/{face.x}", self.model, face.noise),
                "model": self.model,
            }
            for name, faces in media.items()
            for number, face in enumerate(faces)
            for frame in face.frames
        ]
        self.put("faces", media, rows)
        self.add_media(media)

    def speak(self, name: str, *turns: tuple[str, str, float, float], channel: int | None = None) -> None:
        """A recording: (speaker, who, start_s, end_s) each."""
        rows = [
            {
                "media_id": media_id(name),
                "turn_index": number,
                "start_s": start,
                "end_s": end,
                "speaker": speaker,
                "channel": channel,
                "embedding": look(who, f"{name}/{number}", self.model),
                "model": self.model,
            }
            for number, (speaker, who, start, end) in enumerate(turns)
        ]
        self.put("speakers", [name], rows)
        self.add_media([name])

    def add_media(self, names: Iterable[str]) -> None:
        rows = [
            {
                "media_id": media_id(name),
                "partition_key": f"{name}~{media_id(name)[:12]}",
                "name": f"{name}.jpg",
                "added_at": ADDED + timedelta(days=int(media_id(name)[:2], 16)),
            }
            for name in names
        ]
        self.put("media", names, rows)

    def put(self, table: str, names: Iterable[str], rows: Sequence[dict[str, Any]]) -> None:
        self.tables.ensure(table, TABLES[table])
        self.tables.replace(table, pa.Table.from_pylist(list(rows), schema=TABLES[table]), [*map(media_id, names)])

    def identities(self, kind: Kind = PERSONS) -> Identities:
        return Identities(kind, self.tables, self.layout, lambda _kind, _model: self.threshold)

    def update(self, *names: str, kind: Kind = PERSONS) -> Any:
        return self.identities(kind).update([media_id(name) for name in names])

    def rows(self, kind: Kind = PERSONS) -> list[dict[str, Any]]:
        return list(self.tables.read(kind.table).to_pylist()) if self.tables.exists(kind.table) else []

    def who(self, kind: Kind = PERSONS) -> dict[tuple[str, int | str], str]:
        """(media_id, track) -> identity."""
        return {(row["media_id"], row[kind.track]): row[kind.identity] for row in self.rows(kind)}

    def of(self, name: str, track: int | str = 0, kind: Kind = PERSONS) -> str:
        return self.who(kind)[media_id(name), track]

    def groups(self, kind: Kind = PERSONS) -> set[frozenset[tuple[str, int | str]]]:
        """The partition of the tracks, whatever the ids."""
        found: dict[str, set[tuple[str, int | str]]] = {}
        for track, identity in self.who(kind).items():
            found.setdefault(identity, set()).add(track)
        return {frozenset(tracks) for tracks in found.values()}

    def catalog(self, tables: Collection[str] = tuple(TABLES)) -> Catalog:
        return Catalog(
            self.layout,
            self.tables,
            {name: TABLES[name] for name in tables},
            extra={"identities": lambda: identity_table(self.layout)},
        )

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self.catalog().connect() as connection:
            return connection.execute(sql).fetchall()


def identity_home(folder: Path) -> IdentityHome:
    layout = Layout(folder)
    layout.create()
    return IdentityHome(layout, Tables(layout.tables, layout.locks))


__all__ = ["PERSONS", "VOICES", "Face", "IdentityHome", "identity_home", "look", "media_id", "unit"]
