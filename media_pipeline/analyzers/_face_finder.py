"""Faces in one picture: proposed by a detector, confirmed and measured by the mesh."""

from __future__ import annotations

from dataclasses import dataclass

from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._face_detect import Candidate, Detector
from media_pipeline.analyzers._face_mesh import FaceMesh, Points
from media_pipeline.analyzers._spec import Image

# Half of a face beside half of a hat is a face to the mesh as well. Two people's faces, chin to hairline, hide each
# other before they share as much.
_TAKEN = 0.25


@dataclass(frozen=True, slots=True)
class Face:
    score: float  # probability that it is one, [0, 1]: the mesh's, or the detector's where that stands alone
    box: Box  # pixels of the picture that was searched
    landmarks: Points  # shape (5, 2), in the order of `_face_mesh.LANDMARKS`
    confirmed: bool  # the mesh fits: the landmarks are exact enough to identify by

    @property
    def height_px(self) -> float:
        return self.box[3] - self.box[1]


class FaceFinder:
    """May be called from several threads at once."""

    def __init__(self, detector: Detector, mesh: FaceMesh) -> None:
        self._detector, self._mesh = detector, mesh

    def find(self, image: Image, *, min_score: float, min_face_px: float, search_px: float) -> list[Face]:
        """All faces, from left to right.

        Args:
            min_score: below it a face is dropped
            min_face_px: height below which a face is dropped, in pixels of `image`
            search_px: height of the smallest faces to look for
        """
        kept: list[Face] = []
        # Best first, and what was found already is not measured again: in tiles each face is seen several times.
        for candidate in sorted(self._detector.candidates(image, search_px), key=lambda c: -c.score):
            if _is_taken(candidate.box, kept):
                continue
            face = self._face(image, candidate, min_score)
            if face and face.height_px >= min_face_px and not _is_taken(face.box, kept):
                kept.append(face)
        return sorted(kept, key=lambda face: face.box[0])

    def _face(self, image: Image, candidate: Candidate, min_score: float) -> Face | None:
        fit = self._mesh.fit(image, candidate.box, candidate.landmarks[:2])
        if fit.presence >= min_score:
            return Face(fit.presence, fit.box, fit.landmarks, confirmed=True)
        if candidate.score >= self._detector.alone_score:
            return Face(candidate.score, candidate.box, candidate.landmarks, confirmed=False)
        return None


def _is_taken(box: Box, faces: list[Face]) -> bool:
    return any(_overlap(box, face.box) > _TAKEN for face in faces)


def _overlap(one: Box, other: Box) -> float:
    """What they share as a part of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, width) * max(0.0, height) / max(smaller, 1e-9)
