"""Where eyes, nose and mouth of a face are, and whether it is one.

MediaPipe's face mesh (Kartynnik et al. 2019, "Real-time Facial Surface Geometry") says for a crop how probably it holds
a face, and where 468 points of its surface lie. It is asked twice, the second time for a crop that its own first answer
placed: on what is no face the two answers drift apart. Measured on 66 pictures and 17 videos, each second searched:
every face seen from the front, from 14 px of height, has 0.97 and more; of 150 things that a detector took for a face,
a coat has 0.945, a dragonfly 0.75, nothing else more than 0.6. Only parts of a head beside its face may have 1.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._face_crop import inverse_map, moved, upright_map, warp
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._spec import Image

Points = npt.NDArray[np.floating]

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")  # right is the person's right

# Indices of MediaPipe's canonical face model.
_RIGHT_EYE, _LEFT_EYE = [33, 133], [263, 362]  # outer and inner corner
_NOSE_TIP, _MOUTH_RIGHT, _MOUTH_LEFT = 1, 61, 291
_ZOOM = 1.5  # the crop's side in sides of the box, as in MediaPipe's graph face_landmark_front
# Below this the second look is saved: it has never made a face of such a first one.
_HOPELESS = 0.05


@dataclass(frozen=True, slots=True)
class MeshFit:
    presence: float  # probability that this is a face, [0, 1]
    box: Box  # around the mesh: chin to hairline, cheek to cheek
    landmarks: Points  # shape (5, 2), in the order of LANDMARKS


class FaceMesh:
    """May be called from several threads at once."""

    def __init__(self, model: LiteRtModel) -> None:
        self._model = model
        self._side = model.input_shape[1]

    def fit(self, image: Image, box: Box, eyes: Points) -> MeshFit:
        """
        Args:
            box: of the presumed face, in pixels of `image`
            eyes: shape (2, 2), the person's right one first
        """
        presence, mesh = self._look(image, box, eyes)
        if presence > _HOPELESS:
            presence, mesh = self._look(image, _around(mesh), _eyes(mesh))
        return MeshFit(presence, _around(mesh), _landmarks(mesh))

    def _look(self, image: Image, box: Box, eyes: Points) -> tuple[float, Points]:
        (dx, dy), (x1, y1, x2, y2) = eyes[1] - eyes[0], box
        side = max(x2 - x1, y2 - y1, 1.0) * _ZOOM
        there = upright_map(((x1 + x2) / 2, (y1 + y2) / 2), side, math.atan2(dy, dx), self._side)
        values = warp(image, there, self._side)[None].astype(np.float32) / 255
        points, logit = sorted(self._model(values), key=lambda output: -output.size)
        presence = 1 / (1 + math.exp(-float(np.clip(logit.item(), -50, 50))))
        return presence, moved(points.reshape(-1, 3)[:, :2], inverse_map(there))


def _around(mesh: Points) -> Box:
    (x1, y1), (x2, y2) = mesh.min(axis=0), mesh.max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def _eyes(mesh: Points) -> Points:
    return np.stack([mesh[_RIGHT_EYE].mean(axis=0), mesh[_LEFT_EYE].mean(axis=0)])


def _landmarks(mesh: Points) -> Points:
    return np.concatenate([_eyes(mesh), mesh[[_NOSE_TIP, _MOUTH_RIGHT, _MOUTH_LEFT]]])
