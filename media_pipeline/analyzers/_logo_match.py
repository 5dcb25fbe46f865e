"""Logos in one frame: features that agree on where the logo is, then a look at the pixels.

1. Every feature of the frame is compared with every one of the gallery; similar ones are a match. No ratio test: it
   would drop logos that are there twice, and pictures of one logo in two colours.
2. A match alone says how large the logo is there, how far it is turned, and where its middle lies. Matches that say
   the same are one candidate (the clusters of Lowe 2004, section 7.3); chance hardly makes six.
3. A homography and an affine map are fitted to them (RANSAC); what turns the logo inside out, folds it or stretches
   it out of all proportion is refused.
4. The frame is drawn back onto the logo, and the share of the logo's cells counted that look alike (normalised
   cross-correlation at least 0.5): a logo that is half hidden gets about 0.5. That is the score, reduced in
   proportion where fewer than 16 features agree: six of them and half the cells can be another logo in the same
   lettering.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._logo_features import Features, Floats, Grey
from media_pipeline.analyzers._logo_gallery import CELL_PX, Gallery, Logo, cells

_MIN_COSINE = 0.86
_FRAME_ROWS = 512  # features compared at once: bounds the memory
_MAX_MATCHES = 200  # of one logo in one frame, the best
_MAX_INSTANCES = 20  # of one logo in one frame

_SCALE_TOLERANCE = 0.6  # octaves
_TURN_TOLERANCE_DEG = 25.0
_MIDDLE_TOLERANCE = 0.25  # of the logo's longer side

_RANSAC_PX = 6.0  # at the logo's full size of 320 px
_MIN_SIDE_PX = 12.0
_MAX_STRETCH = 2.5  # between the sides of a quadrilateral, beyond those of the logo
_MIN_CORRELATION = 0.5
_ENOUGH_MATCHES = 16

_SAME_PLACE_IOU = 0.3
_SHADOW = 0.75  # of the score of what stands at the same place, below which it is a logo that looks like it

Matches = npt.NDArray[np.int64]  # (n, 2): feature of the frame, feature of the logo
Matrix = npt.NDArray[np.float64]  # (3, 3), from the logo into the frame


@dataclass(frozen=True, slots=True)
class Instance:
    """One logo at one place."""

    name: str
    score: float  # [0, 1]
    corners: Floats  # (4, 2): the logo's top left, top right, bottom right, bottom left, in pixels of the frame
    matches: int  # features that agree


def find_logos(gallery: Gallery, frame: Features, grey: Grey, min_matches: int, min_score: float) -> list[Instance]:
    """Every instance of every logo, the best first."""
    found = [
        instance
        for logo, matches in _matches(gallery, frame, min_matches)
        for instance in _instances(logo, frame, grey, matches, min_matches)
        if instance.score >= min_score
    ]
    kept: list[Instance] = []
    for instance in sorted(found, key=lambda i: (-i.score, -i.matches)):
        if not any(_is_shadow(instance, of) for of in kept):
            kept.append(instance)
    return kept


def _is_shadow(instance: Instance, of: Instance) -> bool:
    """Whether it is what the other one is at the same place, seen worse: itself again, or a logo like it."""
    same_place = _iou(instance.corners, of.corners) >= _SAME_PLACE_IOU
    return same_place and (instance.name == of.name or instance.score < _SHADOW * of.score)


def _matches(gallery: Gallery, frame: Features, fewest: int) -> Iterator[tuple[Logo, Matches]]:
    similar: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]] = []
    for start in range(0, len(frame), _FRAME_ROWS):
        cosines = frame.descriptors[start : start + _FRAME_ROWS] @ gallery.descriptors.T
        rows, columns = np.nonzero(cosines >= _MIN_COSINE)
        similar.append((rows + start, columns, cosines[rows, columns]))
    if not similar:
        return
    rows, columns, cosines = (np.concatenate(part) for part in zip(*similar, strict=True))
    owners = np.searchsorted(gallery.starts, columns, side="right") - 1
    for owner in np.flatnonzero(np.bincount(owners, minlength=len(gallery.logos)) >= fewest):
        mine = np.flatnonzero(owners == owner)
        best = mine[np.argsort(-cosines[mine], kind="stable")[:_MAX_MATCHES]]
        yield gallery.logos[owner], np.stack([rows[best], columns[best] - gallery.starts[owner]], axis=1)


def _instances(logo: Logo, frame: Features, grey: Grey, matches: Matches, fewest: int) -> Iterator[Instance]:
    agrees = _agreement(logo, frame, matches)
    left = np.ones(len(matches), np.bool_)
    for _ in range(_MAX_INSTANCES):
        votes = agrees[:, left].sum(axis=1) * left
        cluster = agrees[int(votes.argmax())] & left
        if _places(logo, frame, matches[cluster]) < fewest:
            return
        instance = _fitted(logo, frame, grey, matches[cluster])
        left &= ~cluster
        if instance is not None and instance.matches >= fewest:
            left &= ~_covered(frame.points[matches[:, 0]], instance.corners)
            yield instance


def _agreement(logo: Logo, frame: Features, matches: Matches) -> npt.NDArray[np.bool_]:
    """(n, n): whether the second match says of the logo what the first one says."""
    there, here = matches.T
    scale = frame.sizes[there] / logo.features.sizes[here]
    turn = np.radians(frame.angles[there] - logo.features.angles[here])
    to_middle = np.array([logo.width / 2, logo.height / 2], np.float32) - logo.features.points[here]
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    middle = frame.points[there] + np.stack(
        [cos * to_middle[:, 0] - sin * to_middle[:, 1], sin * to_middle[:, 0] + cos * to_middle[:, 1]], axis=1
    )
    octaves = np.abs(np.log2(scale)[:, None] - np.log2(scale))
    turned = np.abs((np.degrees(turn)[:, None] - np.degrees(turn) + 180) % 360 - 180)
    away = np.linalg.norm(middle[:, None] - middle, axis=2) / (scale * max(logo.width, logo.height))[:, None]
    agrees = (octaves < _SCALE_TOLERANCE) & (turned < _TURN_TOLERANCE_DEG) & (away < _MIDDLE_TOLERANCE)
    return np.asarray(agrees)


def _places(logo: Logo, frame: Features, matches: Matches) -> int:
    """How many different places they join: SIFT describes one place up to four times, in several directions."""
    both = ((frame.points, matches[:, 0]), (logo.features.points, matches[:, 1]))
    return min(len(np.unique(np.round(points[index] / 2), axis=0)) for points, index in both)


def _fitted(logo: Logo, frame: Features, grey: Grey, matches: Matches) -> Instance | None:
    """The map under which the frame looks most like the logo, or None."""
    import cv2

    source, target = logo.features.points[matches[:, 1]], frame.points[matches[:, 0]]
    scale = float(np.median(frame.sizes[matches[:, 0]] / logo.features.sizes[matches[:, 1]]))
    tolerance = max(1.5, _RANSAC_PX * scale)
    homography, in_homography = cv2.findHomography(source, target, cv2.RANSAC, tolerance)
    affine, in_affine = cv2.estimateAffine2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=tolerance)
    fits: list[tuple[Matrix, npt.NDArray[Any]]] = []
    if homography is not None:
        fits.append((np.asarray(homography, np.float64), np.asarray(in_homography)))
    if affine is not None:
        fits.append((np.vstack([affine, [0, 0, 1]]), np.asarray(in_affine)))
    candidates = []
    for matrix, inliers in fits:
        corners = cv2.perspectiveTransform(_outline(logo)[None], matrix)[0]
        if _plausible(corners, logo):
            places = _places(logo, frame, matches[inliers.ravel() > 0])
            score = _likeness(logo, grey, matrix) * min(1.0, places / _ENOUGH_MATCHES)
            candidates.append(Instance(logo.name, score, np.asarray(corners, np.float32), places))
    return max(candidates, key=lambda i: (i.score, i.matches), default=None)


def _outline(logo: Logo) -> Floats:
    return np.array([[0, 0], [logo.width, 0], [logo.width, logo.height], [0, logo.height]], np.float32)


def _plausible(corners: Floats, logo: Logo) -> bool:
    """Convex, not mirrored, large enough, and no more distorted than a sign seen from the side."""
    edges = np.roll(corners, -1, axis=0) - corners
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    if not np.isfinite(corners).all() or (turns <= 0).any():  # clockwise, y down, as the logo itself
        return False
    top, right, bottom, left = np.linalg.norm(edges, axis=1)
    if min(top, right, bottom, left) < _MIN_SIDE_PX * min(1.0, min(logo.width, logo.height) / 64):
        return False
    aspect = ((top + bottom) / (right + left)) / (logo.width / logo.height)
    stretches = (top / bottom, bottom / top, left / right, right / left, aspect, 1 / aspect)
    return bool(max(stretches) < _MAX_STRETCH)


def _likeness(logo: Logo, grey: Grey, matrix: Matrix) -> float:
    """Share of the textured cells whose pixels correlate with those of the frame, drawn back onto the logo."""
    import cv2

    rectified = cv2.warpPerspective(
        grey, matrix, (logo.width, logo.height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    seen = cv2.resize(rectified, logo.template.shape[::-1], interpolation=cv2.INTER_AREA)
    one, other = (cells(cv2.blur(picture, (3, 3))) for picture in (logo.template, seen))
    one = one - one.mean(axis=(1, 3), keepdims=True)
    other = other - other.mean(axis=(1, 3), keepdims=True)
    norm = np.sqrt((one * one).sum(axis=(1, 3)) * (other * other).sum(axis=(1, 3)))
    correlation = (one * other).sum(axis=(1, 3)) / np.maximum(norm, CELL_PX * CELL_PX)
    return float((correlation[logo.textured] >= _MIN_CORRELATION).mean())


def _covered(points: Floats, corners: Floats) -> npt.NDArray[np.bool_]:
    return np.array([_inside(point, corners) for point in points], np.bool_)


def _iou(one: Floats, other: Floats) -> float:
    """Intersection over union of two convex quadrilaterals."""
    import cv2

    common = float(cv2.intersectConvexConvex(one, other)[0])
    union = cv2.contourArea(one) + cv2.contourArea(other) - common
    return common / union if union > 0 else 0.0


def _inside(point: Floats, corners: Floats) -> bool:
    """Whether a point lies in a convex quadrilateral whose corners go clockwise (y down)."""
    edges, to_point = np.roll(corners, -1, axis=0) - corners, point - corners
    return bool((edges[:, 0] * to_point[:, 1] - edges[:, 1] * to_point[:, 0] >= 0).all())
