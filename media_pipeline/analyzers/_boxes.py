"""Upright rectangles in pictures."""

from __future__ import annotations

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


def iou(one: Box, other: Box) -> float:
    """Intersection over union, in [0, 1]; that of boxes without area is 0."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)
