"""The two kinds of identity, persons by their faces and voices by their speech, as one description.

A *track* is what an analyzer takes for one person within one medium: a face followed through a video, a speaker of a
recording. An *identity* is the tracks, across media, that are one person. Everything else in `results` that deals
with identities is written once, over `Kind` and `Track`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.storage import schemas
from media_pipeline.storage.identities import Anchor, Pin

Vector = npt.NDArray[np.float32]
Key = int | str  # of a track within its medium

BOX = ("x1", "y1", "x2", "y2")
_NEAR_S = 1.0  # a track is found again where it was, give or take
_LEAST_IOU = 0.3
_LEAST_WEIGHT = 1e-3  # a face of no quality still is the only one of its track


@dataclass(frozen=True, slots=True)
class Kind:
    """Where identities of one kind come from and where they go.

    Attributes:
        name: in messages and in the decisions: person, voice
        plural: also the view and the command: persons, voices
        prefix: of ids
        source: table of the analyzer: one row per sighting (a face in a frame, a turn of speech)
        track: its column that names the track within the medium
        table: one row per track, with its identity
        identity: column of the identity's id in `table` and in the views
        schema: of `table`
        span: columns of `source` with the beginning and the end of a sighting, seconds
        quality: column of `source` by which sightings are weighted; None: by their length
        scene: column of `source`; tracks that share a value of it are two people. None: all tracks of a medium are
    """

    name: str
    plural: str
    prefix: str
    source: str
    track: str
    table: str
    identity: str
    schema: pa.Schema
    span: tuple[str, str]
    quality: str | None
    scene: str | None

    @property
    def has_boxes(self) -> bool:
        return BOX[0] in self.schema.names

    @property
    def columns(self) -> list[str]:
        """What is read of `source`."""
        boxes = BOX if self.has_boxes else ()
        wanted = ("media_id", self.track, *self.span, self.quality, self.scene, *boxes, "embedding", "model")
        return list(dict.fromkeys(name for name in wanted if name))


PERSONS = Kind(
    name="person",
    plural="persons",
    prefix="P",
    source="faces",
    track="track_index",
    table="face_persons",
    identity="person_id",
    schema=schemas.FACE_PERSONS,
    span=("pts_s", "pts_s"),
    quality="quality",
    scene="frame_index",
)
VOICES = Kind(
    name="voice",
    plural="voices",
    prefix="V",
    source="speakers",
    track="speaker",
    table="speaker_voices",
    identity="voice_id",
    schema=schemas.SPEAKER_VOICES,
    span=("start_s", "end_s"),
    quality=None,
    scene=None,
)
KINDS = (PERSONS, VOICES)

Thresholds = Callable[[Kind, str], float]  # (kind, model) -> cosine from which two tracks are one identity


@dataclass(frozen=True, slots=True)
class Track:
    """One person within one medium."""

    media_id: str
    key: Key
    model: str
    vector: Vector  # shape (dimension,), L2-normalised: the mean of the sightings, weighted by their quality
    anchor: Anchor  # the best sighting, by which the track is known again when the medium was analysed anew
    apart: tuple[Key, ...]  # other tracks of the medium that must be other people

    @property
    def name(self) -> tuple[str, Key]:
        return self.media_id, self.key


def tracks_of(rows: pa.Table, kind: Kind) -> list[Track]:
    """The tracks of some media, by medium and key; those without a usable embedding are left out.

    Args:
        rows: of `kind.source`, all rows of these media
    """
    sightings = _Sightings.of(rows, kind)
    by_track: dict[tuple[str, Key], list[int]] = defaultdict(list)
    for row, name in enumerate(sightings.names):
        by_track[name].append(row)
    apart = _apart(sightings.names, sightings.scenes)
    found = []
    for name in sorted(by_track):
        usable = [row for row in by_track[name] if sightings.vectors[row] is not None]
        model = next((sightings.models[row] for row in usable), None)
        usable = [row for row in usable if sightings.models[row] == model]
        mean = _mean(sightings, usable)
        if model is not None and mean is not None:
            best = max(usable, key=lambda row: sightings.weights[row])
            others = tuple(sorted(apart[name]))
            found.append(Track(*name, model, mean, sightings.anchor(best), others))
    return found


def track_at(pin: Pin, rows: pa.Table, kind: Kind) -> Key | None:
    """The track that is where a pin was put, or None where there is none any more.

    Args:
        rows: of `kind.source`, those of the pin's medium
    """
    starts, ends = (rows[name].to_pylist() for name in kind.span)
    keys = rows[kind.track].to_pylist()
    boxes: Iterable[Any] = zip(*(rows[name].to_pylist() for name in BOX), strict=True) if kind.has_boxes else starts
    best: tuple[float, float, Key] | None = None
    for key, start, end, box in zip(keys, starts, ends, boxes, strict=True):
        gap = 0.0 if pin.anchor.at_s is None or start is None else max(start - pin.anchor.at_s, pin.anchor.at_s - end)
        overlap = _iou(pin.anchor.box, box) if kind.has_boxes else 1.0
        if max(gap, 0.0) <= _NEAR_S and overlap >= _LEAST_IOU and (best is None or (-gap, overlap) > best[:2]):
            best = (-gap, overlap, key)
    return best[2] if best else None


@dataclass(frozen=True, slots=True)
class _Sightings:
    names: list[tuple[str, Key]]
    scenes: list[Any]  # what two tracks must share to be two people
    vectors: list[Vector | None]
    models: list[str | None]
    weights: list[float]
    spans: list[tuple[float | None, float | None]]
    boxes: list[Any]

    @classmethod
    def of(cls, rows: pa.Table, kind: Kind) -> _Sightings:
        media = rows["media_id"].to_pylist()
        spans = list(zip(*(rows[name].to_pylist() for name in kind.span), strict=True))
        boxes = list(zip(*(rows[name].to_pylist() for name in BOX), strict=True)) if kind.has_boxes else []
        weights = rows[kind.quality].to_pylist() if kind.quality else [_length(span) for span in spans]
        return cls(
            list(zip(media, rows[kind.track].to_pylist(), strict=True)),
            list(zip(media, rows[kind.scene].to_pylist(), strict=True)) if kind.scene else media,
            vectors_in(rows["embedding"]),
            rows["model"].to_pylist(),
            [max(weight or 0.0, _LEAST_WEIGHT) for weight in weights],
            spans,
            boxes,
        )

    def anchor(self, row: int) -> Anchor:
        start, end = self.spans[row]
        at = None if start is None or end is None else (start + end) / 2
        return Anchor(at, tuple(self.boxes[row]) if self.boxes and None not in self.boxes[row] else None)


def vectors_in(column: pa.ChunkedArray | pa.Array) -> list[Vector | None]:
    """Vectors of a list column, of any length each; None where there is none or it holds no finite numbers."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    found: list[Vector | None] = [None] * len(array)
    rows = np.flatnonzero(np.asarray(array.is_valid()))
    kept = array.take(pa.array(rows))
    flat = kept.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = np.asarray(pc.list_value_length(kept), dtype=np.int64)
    for row, end, length in zip(rows, np.cumsum(lengths), lengths, strict=True):
        vector = flat[end - length : end]
        if len(vector) and np.isfinite(vector).all():
            found[row] = vector
    return found


def _length(span: tuple[float | None, float | None]) -> float:
    start, end = span
    return 0.0 if start is None or end is None else end - start


def _mean(sightings: _Sightings, rows: list[int]) -> Vector | None:
    vectors = [vector for row in rows if (vector := sightings.vectors[row]) is not None]
    if not vectors:
        return None
    total = np.average(np.stack(vectors).astype(np.float64), axis=0, weights=[sightings.weights[row] for row in rows])
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 0 else None


def _apart(names: list[tuple[str, Key]], scenes: list[Any]) -> dict[tuple[str, Key], set[Key]]:
    together: dict[Any, set[Key]] = defaultdict(set)
    for (_, key), scene in zip(names, scenes, strict=True):
        together[scene].add(key)
    apart: dict[tuple[str, Key], set[Key]] = defaultdict(set)
    for name, scene in dict.fromkeys(zip(names, scenes, strict=True)):
        apart[name] |= together[scene] - {name[1]}
    return apart


def _iou(left: Any, right: Any) -> float:
    """Intersection over union of two boxes xyxy."""
    if left is None or right is None or None in right:
        return 0.0
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)) - width * height
    return float(width * height / union) if union > 0 else 0.0
