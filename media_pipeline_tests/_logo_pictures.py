"""Logos drawn in code, and pictures that show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from media_pipeline.analyzers._spec import Image

WORDS = ("Nordwind", "ACME Werke", "Blaupunkt8", "Zephyr", "Kaffee & Co", "Quantix")


def logo(number: int, width: int = 320, height: int = 160) -> Image:
    """An emblem of polygons and circles beside a word; different for every number."""
    import cv2

    rng = np.random.default_rng(number)
    picture = np.full((height, width, 3), rng.integers(200, 256, 3), np.uint8)
    for _ in range(5):
        points = rng.integers((10, 10), (height - 10, height - 10), (4, 2)).astype(np.int32)
        colour = tuple(int(c) for c in rng.integers(0, 200, 3))
        cv2.fillConvexPoly(picture, cv2.convexHull(points), colour, cv2.LINE_AA)
    cv2.circle(picture, (height // 2, height // 2), height // 5, tuple(int(c) for c in rng.integers(0, 256, 3)), 6)
    word = WORDS[number % len(WORDS)]
    px = height // 5
    cv2.putText(picture, word, (height + 4, height // 2 + px // 3), (20, 20, 60), cv2.FontFace("sans"), px, 700)
    return picture


def photo(seed: int, width: int = 1280, height: int = 720) -> Image:
    """Something like a photograph: noise of every size."""
    import cv2

    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 9, 20, 45, 100, 220):
        noise = rng.uniform(-1, 1, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / cells**0.4
    return np.clip(picture + 120, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Placed:
    picture: Image
    corners: np.ndarray  # (4, 2): where the logo's corners are


def place(
    picture: Image,
    mark: Image,
    centre: tuple[float, float],
    *,
    scale: float = 1.0,
    turn_deg: float = 0.0,
    tilt: float = 0.0,
) -> Placed:
    """The logo drawn into a copy, about its centre; ``tilt`` narrows its right side by that share (perspective)."""
    import cv2

    height, width = mark.shape[:2]
    corners = np.float32([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    corners[1:3, 1] *= 1 - tilt
    corners[1:3, 0] *= 1 - tilt / 2
    angle = np.radians(turn_deg)
    turn = np.float32([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = np.float32(corners @ turn.T * scale + centre)
    shrunk = cv2.resize(mark, None, fx=min(1.0, scale * 1.2), fy=min(1.0, scale * 1.2), interpolation=cv2.INTER_AREA)
    h, w = shrunk.shape[:2]
    matrix = cv2.getPerspectiveTransform(np.float32([[0, 0], [w, 0], [w, h], [0, h]]), target)
    size = (picture.shape[1], picture.shape[0])
    drawn = cv2.warpPerspective(shrunk, matrix, size)
    mask = cv2.warpPerspective(np.full((h, w), 255, np.uint8), matrix, size)[..., None] / 255.0
    return Placed((picture * (1 - mask) + drawn * mask).astype(np.uint8), target)


def jpeg(picture: Image, quality: int) -> Image:
    import cv2

    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two convex quadrilaterals."""
    import cv2

    common = cv2.intersectConvexConvex(np.float32(one), np.float32(other))[0]
    return common / (cv2.contourArea(np.float32(one)) + cv2.contourArea(np.float32(other)) - common)
