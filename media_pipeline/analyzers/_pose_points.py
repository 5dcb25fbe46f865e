"""Names of the key points of a body, and the `keypoints` column of `poses` as arrays.

Left and right are the person's own. Every network fills every name it knows, always in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]

# COCO (Lin et al. 2014), in the order of its annotations.
COCO_POINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
# BlazePose (Bazarevsky et al. 2020): all of COCO's, and more of face, hands and feet.
BLAZE_POINTS = (
    "nose",
    "left_eye_inner",
    "left_eye",
    "left_eye_outer",
    "right_eye_inner",
    "right_eye",
    "right_eye_outer",
    "left_ear",
    "right_ear",
    "mouth_left",
    "mouth_right",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_pinky",
    "right_pinky",
    "left_index",
    "right_index",
    "left_thumb",
    "right_thumb",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "left_heel",
    "right_heel",
    "left_foot_index",
    "right_foot_index",
)

KEYPOINTS = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            pa.field("x", pa.float32(), metadata={"unit": "px of the displayed picture; null: not in the picture"}),
            pa.field("y", pa.float32(), metadata={"unit": "px of the displayed picture; null: not in the picture"}),
            ("score", pa.float32()),  # probability that the point is seen; low with coordinates: hidden by something
        ]
    )
)


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The key points of one person."""

    names: tuple[str, ...]
    xy: Floats  # shape (k, 2), pixels of the displayed picture; NaN where the point is not in the picture
    scores: Floats  # shape (k,), probability that the point is seen, [0, 1]

    def __post_init__(self) -> None:
        if self.xy.shape != (len(self.names), 2) or self.scores.shape != (len(self.names),):
            raise ValueError(f"{len(self.names)} names, points {self.xy.shape}, scores {self.scores.shape}")

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Keypoints:
        """One value of the column `keypoints`, as pyarrow's `to_pylist` gives it."""
        nan = float("nan")
        places = [(nan if row["x"] is None else row["x"], nan if row["y"] is None else row["y"]) for row in rows]
        return cls(
            tuple(row["name"] for row in rows),
            np.asarray(places, np.float32).reshape(len(rows), 2),
            np.asarray([nan if row["score"] is None else row["score"] for row in rows], np.float32),
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """The reverse of `from_rows`."""
        return [
            {"name": name, "x": x, "y": y, "score": score}
            for name, (x, y), score in zip(
                self.names, (_numbers(place) for place in self.xy), _numbers(self.scores), strict=True
            )
        ]

    def point(self, name: str) -> tuple[Floats, float]:
        """Place, shape (2,), and score of one point; NaN where this network does not know it."""
        if name not in self.names:
            return np.full(2, np.nan, np.float32), float("nan")
        index = self.names.index(name)
        return self.xy[index], float(self.scores[index])

    def places(self, *names: str) -> Floats:
        """Shape (len(names), 2), in that order: `places("left_wrist", "right_wrist")`."""
        return np.stack([self.point(name)[0] for name in names])


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
