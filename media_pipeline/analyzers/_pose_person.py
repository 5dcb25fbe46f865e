"""One person found in a picture, and whether two findings are the same person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._pose_points import Keypoints

_SAME_PERSON = 0.5  # similarity of two poses
_TOLERANCE = 0.1  # about COCO's mean over its 17 points, as a fraction of the person's size


@dataclass(frozen=True, slots=True)
class Pose:
    """One person, in pixels of the picture that was looked at."""

    score: float  # probability that this is a person, [0, 1]
    box: Box
    keypoints: Keypoints


def similarity(one: Pose, other: Pose) -> float:
    """COCO's object keypoint similarity over the points both have, with one tolerance for all points; [0, 1]."""
    squares = np.square(one.keypoints.xy - other.keypoints.xy).sum(axis=1)
    common = ~np.isnan(squares)
    if not common.any():
        return 0.0
    x1, y1, x2, y2 = one.box
    spread = 2 * max((x2 - x1) * (y2 - y1), 1.0) * _TOLERANCE**2
    return float(np.exp(-squares[common] / spread).mean())


def different_persons(poses: Iterable[Pose]) -> list[Pose]:
    """Each person once, best first: of several poses that lie upon each other the one with the best score."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda pose: -pose.score):
        if all(similarity(pose, other) < _SAME_PERSON for other in kept):
            kept.append(pose)
    return kept
