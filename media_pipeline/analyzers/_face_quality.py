"""How good a picture of a face is: to choose examples by, and to keep bad ones from naming the wrong person.

Measured with dlib-resnet and 33 faces of 12 people made worse step by step: down to 32 px of height, or to a sharpness
of 0.012, 98 % of the same person's pairs stay above the threshold. Blurred beyond, right pairs are lost first (0.006:
5 %), then everybody looks like everybody: of the strangers' pairs one in two hundred matches at 0.004, one in fifteen
at 0.003.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from media_pipeline.analyzers._face_crop import (
    ARCFACE_SIDE_PX,
    ARCFACE_TEMPLATE,
    Floats,
    aligned,
    moved,
    similarity_map,
)
from media_pipeline.analyzers._spec import Image

# Values from which nothing is gained any more.
_LARGE_PX = 112.0
_SHARP = 0.12
# Of the distance of the eyes: how far the nose's tip lies beside the middle of eyes and mouth, in profile.
_PROFILE = 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    height_px: float  # of the box, in pixels that were really there
    sharpness: float  # energy of the finest details as a part of the whole, 0: none; 0.1 and more: sharp
    turn: float  # 0: seen from the front, 0.5 and more: from the side

    @property
    def score(self) -> float:
        """Geometric mean of the three, [0, 1]: one bad side spoils the picture."""
        parts = (self.height_px / _LARGE_PX, self.sharpness / _SHARP, 1 - self.turn / _PROFILE)
        return float(np.prod(np.clip(parts, 0, 1)) ** (1 / 3))


def quality(image: Image, height_px: float, landmarks: Floats) -> Quality:
    """
    Args:
        landmarks: shape (5, 2), in the order of `_face_mesh.LANDMARKS`, in pixels of `image`
    """
    import cv2

    chip = aligned(image, landmarks, np.asarray(ARCFACE_TEMPLATE), ARCFACE_SIDE_PX)
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)
    contrast = float(grey.var())
    details = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    # Without any contrast the few details are noise.
    return Quality(height_px, details / max(contrast, 1.0), _turn(landmarks))


def _turn(landmarks: Floats) -> float:
    if np.ptp(landmarks[:2], axis=0).max() < 1e-3:  # the eyes lie on each other
        return 1.0
    level = similarity_map(landmarks[:2], np.asarray([[-0.5, 0.0], [0.5, 0.0]]))
    across = moved(landmarks, level)[:, 0]
    return abs(float(across[2] - across[[0, 1, 3, 4]].mean()))
