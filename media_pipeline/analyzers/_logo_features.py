"""Local features: SIFT (Lowe 2004), compared as RootSIFT (Arandjelovic and Zisserman 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]  # shape (h, w)
Floats = npt.NDArray[np.float32]

_MIN_CONTRAST = 0.03  # below OpenCV's 0.04: logos are flat


@dataclass(frozen=True, slots=True)
class Features:
    """n features of one picture, the strongest first."""

    points: Floats  # (n, 2), x and y in pixels
    sizes: Floats  # (n,), diameter in pixels
    angles: Floats  # (n,), degrees
    descriptors: Floats  # (n, 128), L2-normalised: products of two are cosines

    def __len__(self) -> int:
        return len(self.points)

    def scaled(self, factor: float) -> Features:
        """The same in a picture that is `factor` times as large."""
        return Features(self.points * factor, self.sizes * factor, self.angles, self.descriptors)

    def moved(self, x: float, y: float) -> Features:
        return Features(self.points + np.array([x, y], np.float32), self.sizes, self.angles, self.descriptors)


def extract(grey: Grey, most: int) -> Features:
    """At most that many features; none in a picture that has no texture."""
    import cv2

    # Made anew each time: one object may not be used by several threads at once.
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=_MIN_CONTRAST)
    points, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None or not len(points):
        return Features(*(np.zeros(shape, np.float32) for shape in ((0, 2), 0, 0, (0, 128))))
    order = np.argsort([-p.response for p in points], kind="stable")[:most]
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return Features(
        np.array([points[i].pt for i in order], np.float32),
        np.array([points[i].size for i in order], np.float32),
        np.array([points[i].angle for i in order], np.float32),
        np.asarray(roots[order], np.float32),
    )


def joined(parts: list[Features]) -> Features:
    return Features(*(np.concatenate([getattr(p, name) for p in parts]) for name in Features.__slots__))
