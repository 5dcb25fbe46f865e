"""BlazePose: persons by a detector, then 33 key points of each by a second network on a turned crop.

Method: Bazarevsky et al., BlazePose (2020), as MediaPipe (Apache-2.0) runs it in its graphs pose_detection_to_roi and
tensors_to_pose_landmarks_and_segmentation and in its calculator RefineLandmarksFromHeatmap. The closer look in squares
is ours: the detector sees 224 pixels of the longer side, and misses who is less than a quarter of that tall.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._blaze import POSE, BlazeDetector, Detection, merged_detections, sigmoid
from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._pose_crop import Crop, Region, inside
from media_pipeline.analyzers._pose_person import Pose, different_persons
from media_pipeline.analyzers._pose_points import BLAZE_POINTS, Keypoints
from media_pipeline.analyzers._spec import Image

Floats = npt.NDArray[np.float32]

# Of the detector; a fifth is not yet a person but a reason to look closer.
_HINT_SCORE = 0.2
_PERSON_SCORE = 0.5
_SUPPRESSION_IOU = 0.3
_SAME_CIRCLE = 0.25  # of its radius: two people side by side are twice as far apart
_ROI_SCALE = 1.25
_POINTS, _VALUES = 39, 5  # 33 of the body and 6 that only steer; x, y, z, visibility, presence
_PRESENT = 0.5
_HEAT_WINDOW = 7  # cells of the heat map
_HEAT_MIN = 0.5
_TILE_OVERLAP = 0.2  # of their side, so that nobody falls between two
_MAX_TILES = 8  # a strip of any length costs no more
_MIN_SIDE_PX = 16  # no person can be told in less


@dataclass(frozen=True, slots=True)
class Looks:
    """How closely a picture is searched for persons."""

    closer: bool = True  # again in overlapping squares, where persons of half the size are found
    gated: bool = True  # ... only where the first look saw a hint of a person
    max_persons: int = 16


class BlazePose:
    """Both networks. May be called from several threads at once."""

    def __init__(self, detector: LiteRtModel, landmarks: LiteRtModel) -> None:
        self._detector = BlazeDetector(detector, POSE, min_score=_HINT_SCORE, min_suppression_iou=_SUPPRESSION_IOU)
        self._landmarks = landmarks
        self._side = landmarks.input_shape[1]

    def find(self, image: Image, looks: Looks, min_score: float) -> list[Pose]:
        """The persons in an RGB picture of any size, best first.

        A person's score is the probability that the detector gives, times the one that the second network gives.
        """
        if min(image.shape[:2]) < _MIN_SIDE_PX:
            return []
        poses = [self._pose(image, person) for person in self._persons(image, looks)]
        return different_persons(pose for pose in poses if pose is not None and pose.score >= min_score)

    def _persons(self, image: Image, looks: Looks) -> list[Detection]:
        found = self._detector.detect(image)
        if looks.closer and (found or not looks.gated):
            for tile, x, y in _tiles(image):
                found += [detection.moved(x, y) for detection in self._detector.detect(tile)]
        likely = [detection for detection in found if detection.score >= _PERSON_SCORE]
        return _different_circles(merged_detections(likely, _SUPPRESSION_IOU))[: looks.max_persons]

    def _pose(self, image: Image, person: Detection) -> Pose | None:
        region = _region(person)
        if not region.is_usable:
            return None
        crop = Crop(image, region, (self._side, self._side))
        raw, is_person, mask, heat, _ = self._landmarks(crop.image[None] / np.float32(255))
        values = raw.reshape(_POINTS, _VALUES)
        points = crop.to_picture(refined(values[:, :2], heat[0], self._side))[: len(BLAZE_POINTS)]
        visible, present = sigmoid(values[: len(BLAZE_POINTS), 3:]).T
        # The network places all points; those it holds for neither seen nor hidden are guesses about the unseen.
        points[np.maximum(visible, present) < _PRESENT] = np.nan
        points = inside(points, image)
        box = _box(crop, mask[0, :, :, 0], points, image)
        if box is None:
            return None
        return Pose(person.score * float(is_person.item()), box, Keypoints(BLAZE_POINTS, points, visible))


def refined(points: Floats, heat: Floats, side: int) -> Floats:
    """Points moved to the centre of gravity of their heat near them, where it is hot enough.

    Args:
        points: shape (k, 2), x and y in pixels of the network's input
        heat: shape (h, w, k), logits
        side: of the network's input

    Returns:
        shape (k, 2)
    """
    height, width, count = heat.shape
    margin = _HEAT_WINDOW // 2
    cells = np.floor(points / side * (width, height)).astype(np.int64)
    near = np.all((cells >= 0) & (cells < (width, height)), axis=1)
    column, row = np.where(near[:, None], cells, 0).T
    padded = np.pad(heat, ((margin, margin), (margin, margin), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_HEAT_WINDOW, _HEAT_WINDOW, 1))
    weights = sigmoid(windows[row, column, np.arange(count), :, :, 0])
    hot = near & (weights.max(axis=(1, 2)) >= _HEAT_MIN)
    steps = np.arange(-margin, margin + 1)
    total = np.maximum(weights.sum(axis=(1, 2)), np.float32(1e-9))
    x = column + (weights.sum(axis=1) @ steps) / total
    y = row + (weights.sum(axis=2) @ steps) / total
    centres = np.stack([x / width, y / height], axis=1) * side
    return np.where(hot[:, None], centres, points).astype(np.float32)


def _region(person: Detection) -> Region:
    """The square around the person's circle: its centre is between the hips, a point of it is above the head."""
    (x, y), (top_x, top_y) = person.points[0].tolist(), person.points[1].tolist()
    side = 2 * _ROI_SCALE * math.hypot(top_x - x, top_y - y)
    return Region(x, y, side, side, math.atan2(top_x - x, y - top_y))


def _different_circles(persons: list[Detection]) -> list[Detection]:
    """Without those whose circle has the centre of a better one's: a large head has several boxes."""
    kept: list[Detection] = []
    for person in persons:
        centre, top = person.points[0], person.points[1]
        reach = _SAME_CIRCLE * math.dist(centre, top)
        if all(math.dist(centre, other.points[0]) > reach for other in kept):
            kept.append(person)
    return kept


def _tiles(image: Image) -> Iterator[tuple[Image, int, int]]:
    """Squares along the longer side of the picture, each with the place of its upper left corner."""
    height, width = image.shape[:2]
    side, length = min(height, width), max(height, width)
    if length < (1 + _TILE_OVERLAP) * side:
        return  # the first look saw all of it nearly as large
    count = min(_MAX_TILES, math.ceil((length - side) / ((1 - _TILE_OVERLAP) * side)) + 1)
    for number in range(count):
        start = round(number * (length - side) / (count - 1))
        x, y = (start, 0) if width > height else (0, start)
        yield image[y : y + side, x : x + side], x, y


def _box(crop: Crop, mask: Floats, points: Floats, image: Image) -> Box | None:
    """Around silhouette (logits, shape (h, w)) and key points, clipped to the picture; None where both are empty."""
    rows, columns = np.nonzero(mask > 0)
    outline = crop.to_picture(np.stack([columns, rows], axis=1).astype(np.float32))
    known = np.concatenate([outline, points[~np.isnan(points[:, 0])]])
    if not len(known):
        return None
    height, width = image.shape[:2]
    (x1, y1), (x2, y2) = np.clip([known.min(axis=0), known.max(axis=0)], 0, (width, height)).tolist()
    return x1, y1, x2, y2
