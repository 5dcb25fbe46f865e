"""Persons in pictures and video frames: a box around each, and named key points of the body.

Tiers:
    embedded: BlazePose out of an installed package, 33 points.
    standard: the same persons, their 17 points by an RTMPose or MoveNet network of the user's.

The person detector is the gate of all else. CPU on one core at 1280x720: 12 ms where nobody is, 54 ms for one person
(32 ms without the closer look), 20 ms for each further one, 2 ms where the picture has not changed.

Mean error of the embedded points, as a fraction of the picture's height: 0.8 % over 120 frames of a rendered figure,
1.3 % on a photograph (against a reference by another network). A person in each of 30 portraits, none in 28 pictures of
animals, things and pages. In 86 frames of two films the closer look finds 105 persons, the first look alone 69.

Limits: missed are persons shorter than about a quarter of the picture where nothing else looks like a person (a sixth
with `person_gate` off), who sits in front of others, and often who is seen from behind. A person's `person_index` says
nothing about the next frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers import _pose_weights
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._pose_blaze import BlazePose, Looks
from media_pipeline.analyzers._pose_coco import PointNetwork, open_point_network
from media_pipeline.analyzers._pose_person import Pose
from media_pipeline.analyzers._pose_points import KEYPOINTS, Keypoints
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Frame, Image, Medium, ModelChoice, Options
from media_pipeline.analyzers._unchanged import new_pictures

_PIXELS = {"unit": "px of the displayed picture"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("person_index", pa.int32()),  # within the frame, best score first, from 0; says nothing about other frames
        ("score", pa.float32()),  # probability that this is a person, [0, 1]
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
        pa.field("keypoints", KEYPOINTS),
        ("model", pa.string()),
        # The frame this was seen in: an earlier one where the picture has not changed since.
        ("read_frame_index", pa.int64()),
    ]
)


class PosesOptions(Options):
    """Options of `poses`."""

    model: str | None = Field(None, description="folder or file of another key-point network: RTMPose or MoveNet")
    min_score: float = Field(0.5, ge=0, le=1, description="probability of a person below which nothing is said")
    max_persons: int = Field(16, ge=1, description="persons per frame, the most probable ones")
    closer_look: bool = Field(True, description="look again in overlapping squares: finds smaller persons")
    person_gate: bool = Field(True, description="look closer only where the first look saw a hint of a person")
    reuse_unchanged_frames: bool = Field(True, description="repeat the persons of the frame before if nothing moved")
    # Not part of the fingerprint: it changes the time, not the points.
    threads: int = Field(1, ge=1, exclude=True, description="threads per picture; media run in parallel anyway")


@dataclass(frozen=True, slots=True)
class PoseModel:
    """What finds persons, and what finds their key points again where the user has a network for that."""

    name: str  # name@digest
    blaze: BlazePose
    points: PointNetwork | None

    def poses(self, image: Image, options: PosesOptions) -> list[Pose]:
        """The persons in an RGB picture, best first."""
        looks = Looks(options.closer_look, options.person_gate, options.max_persons)
        found = self.blaze.find(image, looks, options.min_score)
        if self.points is None:
            return found
        return [replace(pose, keypoints=self.points.keypoints(image, pose.box)) for pose in found]


def choose(options: PosesOptions, store: Any) -> ModelChoice:
    return _pose_weights.choose(options.model, store)


def load(choice: ModelChoice, device: str, options: PosesOptions) -> PoseModel:
    """Open the networks; a tenth of a second.

    Raises:
        ModelUnavailable: a file is no network, or one for something else.
    """
    detector, landmarks = (LiteRtModel(file, options.threads) for file in _pose_weights.blaze_files())
    points = None
    if choice.tier != "embedded":
        assert choice.path is not None
        points = open_point_network(choice.path, threads=options.threads, device=device)
    return PoseModel(f"{choice.name}@{choice.digest[:12]}", BlazePose(detector, landmarks), points)


def run(model: PoseModel, batch: Batch, options: PosesOptions) -> pa.Table:
    """One row per person and frame; a frame without persons has none."""
    rows = [row for medium in batch for row in _medium_rows(model, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _medium_rows(model: PoseModel, medium: Medium, options: PosesOptions) -> Iterator[dict[str, Any]]:
    persons: list[dict[str, Any]] = []
    for frame, image in new_pictures(medium.frames, options.reuse_unchanged_frames):
        if image is not None:
            persons = [_person(pose, frame, image) for pose in model.poses(image, options)]
        for person_index, person in enumerate(persons):
            yield {
                "media_id": medium.media_id,
                "frame_index": frame.frame_index,
                "pts_s": frame.pts_s,
                "person_index": person_index,
                "model": model.name,
                **person,
            }


def _person(pose: Pose, frame: Frame, image: Image) -> dict[str, Any]:
    """The columns that do not change while the picture does not, in pixels of the displayed picture."""
    scale = np.asarray([frame.width / image.shape[1], frame.height / image.shape[0]], np.float32)
    x1, y1, x2, y2 = (np.asarray(pose.box, np.float32).reshape(2, 2) * scale).reshape(4).tolist()
    points = Keypoints(pose.keypoints.names, pose.keypoints.xy * scale, pose.keypoints.scores)
    return {
        "score": pose.score,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "keypoints": points.to_rows(),
        "read_frame_index": frame.frame_index,
    }


def preview(rows: pa.Table) -> str:
    """How many persons at once at most, and in how many frames there are any."""
    persons = Counter(rows.column("frame_index").to_pylist())
    if not persons:
        return "no person"
    most, frames = max(persons.values()), len(persons)
    return f"up to {most} person{'s' * (most != 1)} at once, in {frames} frame{'s' * (frames != 1)}"


ANALYZER = AnalyzerSpec(
    name="poses",
    version="1",
    needs=("frames",),
    schema=SCHEMA,
    options=PosesOptions,
    choose=choose,
    load=load,
    run=run,
    description="Persons in pictures and video frames: a box and named key points of the body for each.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="litert",
    # RTMPose; the persons it is shown are found on LiteRT.
    uses_gpu=lambda choice: choice.path is not None and choice.path.suffix == ".onnx",
)
