"""Single-shot detectors of the BlazeFace family: faces and whole persons, each with alignment points.

Method: Bazarevsky et al., BlazeFace (2019) and BlazePose (2020), as MediaPipe (Apache-2.0) runs them in its calculators
ImageToTensor, SsdAnchors, TensorsToDetections and NonMaxSuppression. The layouts below are those of its graphs
face_detection_full_range and pose_detection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._spec import Image

Floats = npt.NDArray[np.float32]

_LOGIT_LIMIT = 80.0  # beyond 88 exp() overflows float32; the score is 0 or 1 long before


@dataclass(frozen=True, slots=True)
class AnchorLayout:
    """Where the anchors of a network lie: on one grid per stride, several at each place."""

    side_px: int  # of the square input
    strides: tuple[int, ...]  # of the layers, in the order of the outputs; equal ones share a grid
    anchors_per_layer: int  # at each place of the grid

    def centres(self) -> Floats:
        """Shape (n, 2), x and y as fractions of the input. Their size is fixed: the whole input."""
        grids = []
        for stride in dict.fromkeys(self.strides):
            count = self.side_px // stride
            middle = (np.arange(count, dtype=np.float32) + 0.5) / count
            grid = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
            grids.append(np.repeat(grid, self.anchors_per_layer * self.strides.count(stride), axis=0))
        return np.concatenate(grids)


FACE_FULL_RANGE = AnchorLayout(192, (4,), 1)
POSE = AnchorLayout(224, (8, 16, 32, 32, 32), 2)


@dataclass(frozen=True, slots=True)
class Detection:
    """One finding, in pixels of the picture that was looked at; it may reach beyond its border."""

    score: float  # [0, 1]
    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    points: Floats  # shape (k, 2): x, y of the network's alignment points

    def moved(self, x: float, y: float) -> Detection:
        """The same in a picture of which this one is the part that begins at (x, y)."""
        x1, y1, x2, y2 = self.box
        return Detection(self.score, (x1 + x, y1 + y, x2 + x, y2 + y), self.points + np.array([x, y], np.float32))


class BlazeDetector:
    """One network with its anchors. May be called from several threads at once."""

    def __init__(
        self, model: LiteRtModel, layout: AnchorLayout, *, min_score: float = 0.5, min_suppression_iou: float = 0.3
    ) -> None:
        """
        Args:
            min_score: below it a finding is dropped
            min_suppression_iou: findings that overlap more are one
        """
        self._model, self._side = model, layout.side_px
        self._centres = layout.centres()
        self._min_score, self._min_iou = min_score, min_suppression_iou

    def detect(self, image: Image) -> list[Detection]:
        """Findings in an RGB picture of any size, best first.

        Short range and pose see the picture as a square of 128 and 224 pixels, black where it has none.
        """
        values, scale, offset = letterboxed(image, self._side)
        outputs = self._model(values)
        raw, logits = sorted((output[0] for output in outputs), key=lambda output: -output.shape[-1])
        scores = sigmoid(logits[:, 0])
        likely = scores >= self._min_score
        found = decoded(raw[likely], self._centres[likely], self._side)
        found = (found - offset) / scale
        return merged(scores[likely], found, self._min_iou)


def letterboxed(image: Image, side: int) -> tuple[Floats, Floats, Floats]:
    """A square copy with the picture's shape kept and black borders.

    Returns:
        values in [-1, 1], shape (1, side, side, 3); and `scale` and `offset`, shape (2,), both x first, such that
        a pixel of the picture lies at `pixel * scale + offset` of the copy
    """
    import cv2

    height, width = image.shape[:2]
    shrink = side / max(height, width)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    small: npt.NDArray[Any] = image
    while max(small.shape[:2]) >= 2 * side:  # as smooth as one step over areas, in a fifth of its time
        half = (max(1, small.shape[1] // 2), max(1, small.shape[0] // 2))
        small = cv2.resize(small, half, interpolation=cv2.INTER_LINEAR)
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + size[1], left : left + size[0]] = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    values = square[None].astype(np.float32) * np.float32(2 / 255) - 1
    scale = np.asarray([size[0] / width, size[1] / height], np.float32)
    return values, scale, np.asarray([left, top], np.float32)


def decoded(raw: Floats, centres: Floats, side: int) -> Floats:
    """Pixels of the network's input out of its offsets to the anchors.

    Args:
        raw: shape (n, 4 + 2 k): centre, size and k points, x before y, in pixels
        centres: shape (n, 2), of the anchors, as fractions

    Returns:
        shape (n, 2 + k, 2): upper left and lower right corner, then the points
    """
    pairs = raw.reshape(len(raw), raw.shape[1] // 2, 2)
    anchors = centres[:, None] * side
    middle, half = pairs[:, :1] + anchors, pairs[:, 1:2] / 2
    return np.concatenate([middle - half, middle + half, pairs[:, 2:] + anchors], axis=1)


def merged(scores: Floats, found: Floats, min_iou: float) -> list[Detection]:
    """Weighted non-maximum suppression: findings that overlap become their mean by score, with the best one's score.

    Args:
        scores: shape (n,)
        found: shape (n, 2 + k, 2), the first two points are the box

    Returns:
        best first
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best = left[0]
        same = _iou(found[best], found[left]) > min_iou
        same[0] = True  # a box without area overlaps nothing, not even itself
        group = left[same]
        mean = np.average(found[group], axis=0, weights=scores[group]).astype(np.float32)
        (x1, y1), (x2, y2) = mean[:2].tolist()
        kept.append(Detection(float(scores[best]), (x1, y1, x2, y2), mean[2:]))
        left = left[~same]
    return kept


def merged_detections(detections: Sequence[Detection], min_iou: float) -> list[Detection]:
    """`merged` for what several looks at one picture found."""
    if not detections:
        return []
    found = [np.concatenate([np.array(d.box, np.float32).reshape(2, 2), d.points]) for d in detections]
    return merged(np.array([d.score for d in detections], np.float32), np.stack(found), min_iou)


def _iou(one: Floats, others: Floats) -> Floats:
    """Intersection over union of a box with each of several; only the first two points of each are read."""
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    intersection = np.prod(np.maximum(shared, 0), axis=-1)
    areas = np.prod(np.maximum(others[:, 1] - others[:, 0], 0), axis=-1)
    area = np.prod(np.maximum(one[1] - one[0], 0))
    union: Floats = np.maximum(area + areas - intersection, np.float32(1e-9))
    return np.asarray(intersection / union, np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Probabilities in [0, 1], of any shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LOGIT_LIMIT, _LOGIT_LIMIT))), np.float32)
