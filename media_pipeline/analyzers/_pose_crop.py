"""A turned rectangle of a picture as the input of a network, and the way back to the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Image

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in pixels of a picture. It may reach beyond the picture."""

    x: float  # centre
    y: float
    width: float
    height: float
    angle: float = 0.0  # radians, clockwise as seen

    @property
    def is_usable(self) -> bool:
        """It has a size, and is made of numbers."""
        return bool(np.isfinite([self.x, self.y, self.angle]).all()) and 1 <= min(self.width, self.height) < 1e6


class Crop:
    """A region of a picture as `image`, shape (height, width, 3); black where the picture has nothing."""

    def __init__(self, image: Image, region: Region, size: tuple[int, int]) -> None:
        """`size` is (width, height) of the crop in pixels."""
        import cv2

        width, height = size
        cos, sin = np.cos(region.angle), np.sin(region.angle)
        turn = np.asarray([[cos, -sin], [sin, cos]]) @ np.diag([region.width / width, region.height / height])
        shift = np.asarray([region.x, region.y]) - turn @ np.asarray([width / 2, height / 2])
        self._turn, self._shift = turn.astype(np.float32), shift.astype(np.float32)
        way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        self.image: Image = np.asarray(cv2.warpAffine(image, np.column_stack([turn, shift]), size, flags=way), np.uint8)

    def to_picture(self, points: Floats) -> Floats:
        """Pixels of the picture for pixels of the crop; shape (..., 2) in and out."""
        return np.asarray(points @ self._turn.T + self._shift, np.float32)


def inside(points: Floats, image: Image) -> Floats:
    """The points, shape (k, 2), with NaN for those that are not in the picture."""
    height, width = image.shape[:2]
    within = np.all((points >= 0) & (points <= (width, height)), axis=1)
    return np.where(within[:, None], points, np.float32(np.nan))
