"""Where faces may be in a picture; the mesh has the last word.

Embedded: BlazeFace full range, which finds faces from an eighteenth of the picture's longer side. So it looks at the
whole and, for smaller faces, at overlapping tiles; one look takes 4 ms.
Standard: YuNet (Wu, Peng and Yu 2023), which also finds faces in profile and whose score can stand alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from media_pipeline.analyzers._blaze import FACE_FULL_RANGE, BlazeDetector
from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._face_mesh import Points
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._spec import Image
from media_pipeline.errors import ModelUnavailable

# Longer side of what BlazeFace looks at, in heights of the smallest face it finds there. Measured on 26 faces pasted
# into photographs of 1280x720: 26 are found at 14, 23 at 18, 18 at 22; the search takes 87, 59 and 49 ms.
REACH = 18


@dataclass(frozen=True, slots=True)
class Candidate:
    score: float  # the detector's, [0, 1]
    box: Box  # pixels of the picture that was searched
    landmarks: Points  # shape (n, 2); the right eye and the left eye first


class Detector(Protocol):
    """May be called from several threads at once."""

    alone_score: float  # from this score on a candidate is a face whatever the mesh says

    def candidates(self, image: Image, min_face_px: float) -> list[Candidate]:
        """What may be a face of at least that height in pixels of `image`, some of them more than once."""


class BlazeFaces:
    alone_score = math.inf
    _MIN_SCORE = 0.3
    _MAX_TILES = 24

    def __init__(self, model: LiteRtModel) -> None:
        self._blaze = BlazeDetector(model, FACE_FULL_RANGE, min_score=self._MIN_SCORE)

    def candidates(self, image: Image, min_face_px: float) -> list[Candidate]:
        height, width = image.shape[:2]
        return [
            candidate
            for part in [(0, 0, width, height), *self.tiles(width, height, min_face_px)]
            for candidate in self._look(image, part)
        ]

    def tiles(self, width: int, height: int, min_face_px: float) -> list[tuple[int, int, int, int]]:
        """Squares x1, y1, x2, y2 in which a face of that height is large enough; none where the picture itself will do.

        At most 24: in a very large picture the smallest faces are given up.
        """
        longer = max(width, height)
        side = max(1, round(min_face_px * REACH))
        overlap = longer / REACH  # a larger face is found in the whole picture
        while side < longer:
            lefts, tops = _starts(width, side, overlap), _starts(height, side, overlap)
            if len(lefts) * len(tops) <= self._MAX_TILES:
                return [(x, y, min(x + side, width), min(y + side, height)) for y in tops for x in lefts]
            side = math.ceil(side * 1.1)
        return []

    def _look(self, image: Image, part: tuple[int, int, int, int]) -> Iterator[Candidate]:
        left, top, right, bottom = part
        for detection in self._blaze.detect(image[top:bottom, left:right]):
            found = detection.moved(left, top)
            yield Candidate(found.score, found.box, found.points)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin, evenly spread, so that neighbours overlap by at least that much."""
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / max(1.0, side - overlap))
    return [round((length - side) * number / (count - 1)) for number in range(count)]


class YuNet:
    alone_score = 0.8  # below it: a parrot, a hand, the back of a coat
    _MIN_SCORE = 0.5
    _MIN_SUPPRESSION_IOU = 0.3
    _MAX_CANDIDATES = 5000
    _SMALLEST_PX = 12  # height of the smallest face it finds; it sees no more of the picture than needed
    _MAX_SIDE_PX = 1280

    def __init__(self, file: Path) -> None:
        self._file = file
        self._local = threading.local()
        self._detector()  # a broken file shows now, not at the first frame

    def candidates(self, image: Image, min_face_px: float) -> list[Candidate]:
        import cv2

        height, width = image.shape[:2]
        scale = min(1.0, self._SMALLEST_PX / min_face_px, self._MAX_SIDE_PX / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        detector = self._detector()
        detector.setInputSize(size)
        _, rows = detector.detect(np.ascontiguousarray(small[:, :, ::-1]))
        back = np.asarray([width / size[0], height / size[1]])
        return [_candidate(row, back) for row in ([] if rows is None else rows)]

    def _detector(self) -> Any:
        # It keeps the size of its input, so threads cannot share one.
        if not hasattr(self._local, "detector"):
            import cv2

            try:
                self._local.detector = cv2.FaceDetectorYN.create(
                    str(self._file), "", (320, 320), self._MIN_SCORE, self._MIN_SUPPRESSION_IOU, self._MAX_CANDIDATES
                )
            except cv2.error as error:
                raise ModelUnavailable(
                    f"{self._file.name} cannot be run: {str(error)[:200]}", "remove the file and get the model again"
                ) from None
        return self._local.detector


def _candidate(row: Points, scale: Points) -> Candidate:
    """YuNet's fifteen numbers: corner, size, five points, score."""
    corner, size, *points = row[:14].reshape(7, 2) * scale
    (x1, y1), (x2, y2) = corner.tolist(), (corner + size).tolist()
    return Candidate(float(row[14]), (x1, y1, x2, y2), np.stack(points))
