"""Whose face it is: one vector per face.

The face is turned and scaled until its landmarks lie where the network was trained to see them, and is shown as it is
and mirrored: the mean of both separates people better (dlib-resnet: distance of the two distributions 7.8 instead of
7.5 standard deviations) for 5 ms more. dlib's ten jittered copies cost five times that and gain no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._face_crop import ARCFACE_SIDE_PX, ARCFACE_TEMPLATE, Floats, aligned
from media_pipeline.analyzers._face_resnet import SIDE_PX, resnet_graph
from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._spec import Image
from media_pipeline.errors import ModelUnavailable

DIMENSION = 128
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Convention:
    """What a network wants to see."""

    side_px: int
    template: tuple[tuple[float, float], ...]  # where the five landmarks lie, in the order of `_face_mesh.LANDMARKS`
    mean: float = 0.0
    scale: float = 1.0  # (pixel - mean) * scale


# dlib aligns by the corners of the eyes and the foot of the nose; this is where the five landmarks of 33 faces lie on
# the mean then.
_DLIB = ((47.51, 47.76), (100.48, 47.78), (74.04, 81.32), (50.46, 102.39), (97.88, 102.17))

CONVENTIONS = {
    "dlib-resnet": Convention(SIDE_PX, _DLIB),
    "mobilefacenet": Convention(ARCFACE_SIDE_PX, ARCFACE_TEMPLATE, mean=127.5, scale=1 / 128),
    "sface": Convention(ARCFACE_SIDE_PX, ARCFACE_TEMPLATE),  # the graph itself brings the pixels into its range
}


class Recogniser:
    """May be called from several threads at once.

    Raises:
        ModelUnavailable: the file is no network that takes one face and gives 128 numbers.
    """

    def __init__(self, name: str, file: Path, model: str, *, threads: int = 1, device: str = "cpu") -> None:
        """
        Args:
            name: of the convention
            model: what is stored beside each embedding, "name@digest"
        """
        self.name, self.model = name, model
        self._convention = CONVENTIONS[name]
        self._template = np.asarray(self._convention.template)
        source = resnet_graph(file) if file.suffix == ".dat" else file
        try:
            self._session = open_session(source, threads=threads, device=device)
        except Exception as error:  # onnxruntime has an exception of its own for each cause, below Exception
            raise ModelUnavailable(f"{file.name} cannot be run: {str(error)[:200]}", "get the model again") from None
        self._input = self._session.get_inputs()[0]
        if self._session.get_outputs()[0].shape[-1] != DIMENSION:
            raise ModelUnavailable(f"{file.name} does not give {DIMENSION} numbers a face", "get another model")

    def chip(self, image: Image, landmarks: Floats) -> Image:
        """The face as the network sees it, a square.

        Args:
            landmarks: shape (5, 2), in the order of `_face_mesh.LANDMARKS`, in pixels of `image`
        """
        return aligned(image, landmarks, self._template, self._convention.side_px)

    def embed(self, chips: list[Image]) -> Vectors:
        """L2-normalised embeddings of aligned faces, shape (faces, 128)."""
        if not chips:
            return np.zeros((0, DIMENSION), np.float32)
        both = np.stack([*chips, *(chip[:, ::-1] for chip in chips)])
        values = (both.transpose(0, 3, 1, 2).astype(np.float32) - self._convention.mean) * self._convention.scale
        # Many exported networks take one face at a time.
        parts = values[:, None] if isinstance(self._input.shape[0], int) else [values]
        found = np.concatenate([self._session.run(None, {self._input.name: np.float32(part)})[0] for part in parts])
        return _normalised(_normalised(found[: len(chips)]) + _normalised(found[len(chips) :]))


def _normalised(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
