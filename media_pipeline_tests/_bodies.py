"""Bodies drawn with numbers: key points of a person 400 pixels high, in postures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from media_pipeline.analyzers._pose_points import COCO_POINTS
from media_pipeline.analyzers.poses import SCHEMA

Place = tuple[float, float]
# Seen from the front, standing, arms hanging: the person's left is right in the picture. Torso 120 px.
STANDING: dict[str, Place] = {
    "nose": (200, 60),
    "left_eye": (206, 54),
    "right_eye": (194, 54),
    "left_ear": (214, 58),
    "right_ear": (186, 58),
    "left_shoulder": (240, 110),
    "right_shoulder": (160, 110),
    "left_elbow": (252, 170),
    "right_elbow": (148, 170),
    "left_wrist": (256, 225),
    "right_wrist": (144, 225),
    "left_hip": (225, 230),
    "right_hip": (175, 230),
    "left_knee": (225, 320),
    "right_knee": (175, 320),
    "left_ankle": (225, 400),
    "right_ankle": (175, 400),
}
HANDS_ON_BACK: dict[str, Place] = {"left_wrist": (205, 212), "right_wrist": (195, 215)}
FOLDED_HANDS: dict[str, Place] = {"left_wrist": (205, 205), "right_wrist": (195, 208)}
HANDS_UP: dict[str, Place] = {
    "left_wrist": (206, -10),
    "right_wrist": (194, -12),
    "left_elbow": (245, 50),
    "right_elbow": (155, 50),
}
FEET_TOGETHER: dict[str, Place] = {
    "left_ankle": (205, 400),
    "right_ankle": (195, 400),
    "left_knee": (208, 320),
    "right_knee": (192, 320),
}


def mirrored(body: Mapping[str, Place]) -> dict[str, Place]:
    """As seen from behind: left and right change sides in the picture."""
    return {name: (400 - x, y) for name, (x, y) in body.items()}


def lying(body: Mapping[str, Place]) -> dict[str, Place]:
    return {name: (y, 400 - x) for name, (x, y) in body.items()}


def scaled(body: Mapping[str, Place], factor: float) -> dict[str, Place]:
    return {name: (x * factor, y * factor) for name, (x, y) in body.items()}


def keypoints(
    body: Mapping[str, Place], hidden: Sequence[str] = (), missing: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A value of the column `keypoints`."""
    return [
        {
            "name": name,
            "x": None if name in missing else body[name][0],
            "y": None if name in missing else body[name][1],
            "score": 0.1 if name in hidden or name in missing else 0.95,
        }
        for name in COCO_POINTS
    ]


def person(
    body: Mapping[str, Place],
    frame_index: int,
    *,
    gap_s: float = 2.0,
    person_index: int = 0,
    shift: float = 0.0,
    read_frame_index: int | None = None,
    **more: Sequence[str],
) -> dict[str, Any]:
    """A row of `poses`."""
    moved = {name: (x + shift, y) for name, (x, y) in body.items()}
    xs, ys = [x for x, _ in moved.values()], [y for _, y in moved.values()]
    return {
        "media_id": "a",
        "frame_index": frame_index,
        "pts_s": frame_index * gap_s,
        "person_index": person_index,
        "score": 0.9,
        "x1": min(xs),
        "y1": min(ys),
        "x2": max(xs),
        "y2": max(ys),
        "keypoints": keypoints(moved, **more),
        "model": "drawn",
        "read_frame_index": frame_index if read_frame_index is None else read_frame_index,
    }


def poses(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)
