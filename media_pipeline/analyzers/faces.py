"""Faces: where they are, how good the picture of each is, which are one person's within a medium, and whose they are.

A detector proposes, MediaPipe's face mesh confirms and finds eyes, nose and mouth, a network turns the aligned face
into 128 numbers. Faces that are too small or too blurred to be told apart have a box and no embedding.

Tiers:
    embedded: BlazeFace full range and dlib's ResNet, out of installed packages. Faces seen from the front and up to
        about 60 degrees from the side, from 24 px of height.
    standard: YuNet and SFace; also faces in profile, which have no embedding.

CPU time of one frame without faces: embedded 22 ms at 640x360, 51 at 1280x720, 110 at 1920x1080 (without the search for
small faces 12, 12 and 17); YuNet 7, 27 and 64. Each face adds about 18 ms: 6 to measure it, 12 to identify it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from media_pipeline.analyzers import _face_weights
from media_pipeline.analyzers._face_detect import REACH, BlazeFaces, YuNet
from media_pipeline.analyzers._face_embed import DIMENSION, Recogniser
from media_pipeline.analyzers._face_finder import Face, FaceFinder
from media_pipeline.analyzers._face_identity import SAME_PERSON_COSINE, SAME_PLACE_COSINE
from media_pipeline.analyzers._face_mesh import LANDMARKS, FaceMesh
from media_pipeline.analyzers._face_quality import Quality, quality
from media_pipeline.analyzers._face_tracks import Sighting, Vector, tracks
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Frame, Image, Medium, ModelChoice, Options
from media_pipeline.analyzers._unchanged import new_pictures

_PIXELS = {"unit": "px of the displayed picture"}
_SCORE = {"range": "[0, 1]"}
LANDMARK = pa.struct(
    [
        ("name", pa.string()),
        pa.field("x", pa.float32(), metadata=_PIXELS),
        pa.field("y", pa.float32(), metadata=_PIXELS),
    ]
)
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("face_index", pa.int32()),  # within the frame, from left to right, from 0
        ("track_index", pa.int32()),  # within the medium, in order of first appearance: one person is one track
        pa.field("score", pa.float32(), metadata=_SCORE),
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
        ("landmarks", pa.list_(LANDMARK)),
        pa.field("quality", pa.float32(), metadata=_SCORE),  # of size, sharpness and view: to choose examples by
        # Null: too small, too blurred or too far from the side to be told apart.
        pa.field("embedding", pa.list_(pa.float32(), DIMENSION), metadata={"unit": "L2-normalised"}),
        ("model", pa.string()),  # of the embedding, "name@digest": only those of one model may be compared
    ]
)


class FacesOptions(Options):
    """Options of `faces`."""

    model: str | None = Field(None, description="folder with YuNet's and a recogniser's ONNX files; by tier when empty")
    min_score: float = Field(0.95, ge=0, le=1, description="probability of the face mesh below which nothing is a face")
    min_face_px: float = Field(24, ge=8, description="height below which a face is not reported")
    small_faces: bool = Field(True, description="look at parts of the picture too, for faces below an 18th of its side")
    min_identity_px: float = Field(32, ge=8, description="height below which a face gets no embedding")
    min_sharpness: float = Field(0.008, ge=0, description="share of fine detail below which a face gets no embedding")
    max_turn: float = Field(0.4, ge=0, description="turn from the front (0.5: profile) above which it gets none")
    max_faces: int = Field(100, ge=1, description="faces of one frame; the largest if there are more")
    reuse_unchanged_frames: bool = Field(True, description="repeat the faces of the frame before if nothing moved")
    # Not part of the fingerprint: it changes the time, not the faces.
    threads: int = Field(1, ge=1, exclude=True, description="threads per picture; media run in parallel anyway")


@dataclass(frozen=True, slots=True)
class Model:
    finder: FaceFinder
    recogniser: Recogniser


@dataclass(frozen=True, slots=True)
class _Seen:
    """A face with its measures; coordinates in pixels of the cached picture."""

    face: Face
    quality: Quality
    embedding: Vector | None


def choose(options: FacesOptions, store: ModelStore) -> ModelChoice:
    return _face_weights.choose(options.model, store)


def load(choice: ModelChoice, device: str, options: FacesOptions) -> Model:
    """The networks of what `choose` found; a quarter of a second.

    Raises:
        ModelUnavailable: a file is gone or broken.
    """
    found = _face_weights.weights(choice.path)
    is_onnx = found.detector.suffix == ".onnx"
    detector = YuNet(found.detector) if is_onnx else BlazeFaces(LiteRtModel(found.detector, options.threads))
    return Model(
        FaceFinder(detector, FaceMesh(LiteRtModel(found.mesh, options.threads))),
        Recogniser(found.convention, found.recogniser, found.model, threads=options.threads, device=device),
    )


def run(model: Model, batch: Batch, options: FacesOptions) -> pa.Table:
    """One row per face and frame; a frame without faces has none."""
    rows = [row for medium in batch for row in _medium_rows(model, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _medium_rows(model: Model, medium: Medium, options: FacesOptions) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    sightings: list[Sighting] = []
    for position, (frame, seen, scale) in enumerate(_frames(model, medium, options)):
        for face_index, one in enumerate(seen):
            row = _row(medium.media_id, frame, face_index, one, scale, model.recogniser.model)
            rows.append(row)
            box = (row["x1"], row["y1"], row["x2"], row["y2"])
            sightings.append(Sighting(position, frame.scene_index, box, one.embedding))
    same_person, same_place = SAME_PERSON_COSINE[model.recogniser.name], SAME_PLACE_COSINE[model.recogniser.name]
    found = tracks(sightings, same_person=same_person, same_place=same_place)
    for row, track in zip(rows, found, strict=True):
        row["track_index"] = track
    return rows


def _frames(
    model: Model, medium: Medium, options: FacesOptions
) -> Iterator[tuple[Frame, list[_Seen], tuple[float, float]]]:
    """Each frame with its faces and the factors from the cached to the displayed picture."""
    seen: list[_Seen] = []
    scale = (1.0, 1.0)
    for frame, image in new_pictures(medium.frames, options.reuse_unchanged_frames):
        if image is not None:
            scale = (frame.width / image.shape[1], frame.height / image.shape[0])
            seen = _faces(model, image, scale[1], options)
        yield frame, seen, scale


def _faces(model: Model, image: Image, scale: float, options: FacesOptions) -> list[_Seen]:
    """
    Args:
        scale: displayed pixels per pixel of `image`
    """
    least = options.min_face_px / scale
    searched = least if options.small_faces else max(least, max(image.shape[:2]) / REACH)
    found = model.finder.find(image, min_score=options.min_score, min_face_px=least, search_px=searched)
    if len(found) > options.max_faces:
        smallest = sorted(face.height_px for face in found)[-options.max_faces]
        found = [face for face in found if face.height_px >= smallest]
    seen = [_Seen(face, quality(image, face.height_px, face.landmarks), None) for face in found]
    known = [place for place, one in enumerate(seen) if _can_be_told_apart(one, options)]
    chips = [model.recogniser.chip(image, seen[place].face.landmarks) for place in known]
    for place, embedding in zip(known, model.recogniser.embed(chips), strict=True):
        seen[place] = replace(seen[place], embedding=embedding)
    return seen


def _can_be_told_apart(one: _Seen, options: FacesOptions) -> bool:
    measured = one.quality
    return (
        one.face.confirmed
        and measured.height_px >= options.min_identity_px
        and measured.sharpness >= options.min_sharpness
        and measured.turn <= options.max_turn
    )


def _row(
    media_id: str, frame: Frame, face_index: int, one: _Seen, scale: tuple[float, float], model: str
) -> dict[str, Any]:
    x1, y1, x2, y2 = np.multiply(one.face.box, scale * 2)
    return {
        "media_id": media_id,
        "frame_index": frame.frame_index,
        "pts_s": frame.pts_s,
        "face_index": face_index,
        "score": one.face.score,
        "x1": max(0.0, x1),
        "y1": max(0.0, y1),
        "x2": min(float(frame.width), x2),
        "y2": min(float(frame.height), y2),
        "landmarks": [
            {"name": name, "x": float(x) * scale[0], "y": float(y) * scale[1]}
            for name, (x, y) in zip(LANDMARKS, one.face.landmarks, strict=True)
        ],
        "quality": one.quality.score,
        "embedding": None if one.embedding is None else one.embedding.tolist(),
        "model": model,
    }


def preview(rows: pa.Table) -> str:
    """How many faces, in how many tracks."""
    if rows.num_rows == 0:
        return "no faces"
    found = len(pc.unique(rows["track_index"]))
    return f"{_count(rows.num_rows, 'face')}, {_count(found, 'track')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


ANALYZER = AnalyzerSpec(
    name="faces",
    version="1",
    needs=("frames",),
    schema=SCHEMA,
    options=FacesOptions,
    choose=choose,
    load=load,
    run=run,
    description="Faces with landmarks, quality and embedding; one person through a video is one track.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="onnx",
    uses_gpu=lambda _choice: True,  # for who it is; where faces are is found on the CPU by both tiers
)
