"""Square pictures of one face, cut upright."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Image

Floats = npt.NDArray[np.floating]

# Where the eyes, the nose's tip and the corners of the mouth lie in an upright face of 112 by 112 pixels, in the order
# of `_face_mesh.LANDMARKS`: the alignment of ArcFace (Deng et al. 2019), which InsightFace and OpenCV's
# FaceRecognizerSF share.
ARCFACE_SIDE_PX = 112
ARCFACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def upright_map(centre: tuple[float, float], side: float, angle: float, size_px: int) -> Floats:
    """The affine map, shape (2, 3), from a turned square of the picture to a picture of `size_px` a side.

    Args:
        angle: radians, of the square's upper edge, clockwise on the screen
    """
    scale = size_px / side
    cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
    linear = np.asarray([[cosine, sine], [-sine, cosine]])
    return np.column_stack([linear, size_px / 2 - linear @ np.asarray(centre)])


def similarity_map(source: Floats, target: Floats) -> Floats:
    """The turn, scale and shift, shape (2, 3), that bring points nearest to others (Umeyama 1991).

    Args:
        source: shape (n, 2), not all in one place
        target: shape (n, 2)
    """
    # In the plane a turn with a scale is one complex factor, and least squares for it has a closed form.
    points, wanted = source @ (1, 1j), target @ (1, 1j)
    offsets = points - points.mean()
    factor = np.vdot(offsets, wanted - wanted.mean()) / np.vdot(offsets, offsets).real
    shift = wanted.mean() - factor * points.mean()
    return np.asarray([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def inverse_map(affine: Floats) -> Floats:
    """The map back, shape (2, 3)."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def moved(points: Floats, affine: Floats) -> Floats:
    """Points, shape (n, 2), through a map."""
    return points @ affine[:, :2].T + affine[:, 2]


def aligned(image: Image, landmarks: Floats, template: Floats, size_px: int) -> Image:
    """The face turned and scaled so that its landmarks lie on the template's.

    Args:
        landmarks: shape (5, 2), in pixels of `image`
        template: shape (5, 2), in pixels of the result
    """
    return warp(image, similarity_map(np.asarray(landmarks, np.float64), template), size_px)


def warp(image: Image, affine: Floats, size_px: int) -> Image:
    """The picture through a map, black where it has nothing."""
    import cv2

    image, affine = _reduced(image, affine, size_px)
    return np.asarray(cv2.warpAffine(image, affine, (size_px, size_px), flags=cv2.INTER_LINEAR), np.uint8)


def _reduced(image: Image, affine: Floats, size_px: int) -> tuple[Image, Floats]:
    """Only the part that is needed, at most twice as large as needed: warpAffine reads four pixels, however many
    fall into one of the result."""
    import cv2

    corners = moved(np.asarray([[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]]), inverse_map(affine))
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, (left + 1, top + 1), (width, height)).astype(int)
    part = image[top:bottom, left:right]
    affine = np.column_stack([affine[:, :2], affine[:, 2] + affine[:, :2] @ (left, top)])
    scale = float(np.hypot(*affine[:, 0]))
    if scale >= 0.5:
        return part, affine
    size = (max(1, round(part.shape[1] * 2 * scale)), max(1, round(part.shape[0] * 2 * scale)))
    factors = size[0] / part.shape[1], size[1] / part.shape[0]
    small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.column_stack([affine[:, :2] / factors, affine[:, 2]])
