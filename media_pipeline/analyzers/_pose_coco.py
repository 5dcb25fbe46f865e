"""Key points of a person in a given box: RTMPose and MoveNet, 17 points of COCO each.

Methods: Jiang et al., RTMPose (2023), with the coordinate classification of SimCC (Li et al. 2022) as MMPose
(Apache-2.0) exports it; MoveNet (Google 2021), single pose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._boxes import Box
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._pose_crop import Crop, Region, inside
from media_pipeline.analyzers._pose_points import COCO_POINTS, Keypoints
from media_pipeline.analyzers._spec import Image
from media_pipeline.errors import ModelUnavailable

Floats = npt.NDArray[np.float32]

_BOX_SCALE = 1.25  # what the networks were trained with around a person's box
_MEAN = np.asarray([123.675, 116.28, 103.53], np.float32)  # of ImageNet, RGB
_DEVIATION = np.asarray([58.395, 57.12, 57.375], np.float32)
_FOUND = 0.05  # below it the network has no idea where the point is


class PointNetwork(Protocol):
    """Finds the key points of the one person in a box. May be called from several threads at once."""

    def keypoints(self, image: Image, box: Box) -> Keypoints: ...


class RtmPose:
    """An ONNX file with the outputs `simcc_x` and `simcc_y`: how likely each column and each row is, per point."""

    def __init__(self, file: Path, *, threads: int, device: str) -> None:
        self._session = open_session(file, threads=threads, device=device)
        self._input = self._session.get_inputs()[0]
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        if not {"simcc_x", "simcc_y"} <= outputs.keys() or outputs["simcc_x"][1] != len(COCO_POINTS):
            raise ModelUnavailable(
                f"{file.name} has the outputs {outputs}, not simcc_x and simcc_y with {len(COCO_POINTS)} points",
                "name a folder with an RTMPose network of MMPose's onnx_sdk for 17 points",
            )
        height, width = (int(side) for side in self._input.shape[2:])
        self._size = (width, height)

    def keypoints(self, image: Image, box: Box) -> Keypoints:
        crop = Crop(image, _region(box, self._size), self._size)
        values = ((crop.image - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
        x, y = self._session.run(["simcc_x", "simcc_y"], {self._input.name: np.ascontiguousarray(values)})
        places = np.stack([x[0].argmax(axis=1) / x.shape[2], y[0].argmax(axis=1) / y.shape[2]], axis=1)
        scores = np.minimum(x[0].max(axis=1), y[0].max(axis=1))
        return _keypoints(crop, places * self._size, scores, image)


class MoveNet:
    """A LiteRT file of one picture in and (1, 1, 17, 3) out: y, x and score, as fractions."""

    def __init__(self, file: Path, *, threads: int) -> None:
        self._network = LiteRtModel(file, threads)
        self._side = self._network.input_shape[1]
        shape = self._network(np.zeros(self._network.input_shape))[0].shape
        if shape != (1, 1, len(COCO_POINTS), 3):
            raise ModelUnavailable(f"{file.name} gives {shape}, not (1, 1, 17, 3)", "name a MoveNet for a single pose")

    def keypoints(self, image: Image, box: Box) -> Keypoints:
        crop = Crop(image, _region(box, (self._side, self._side)), (self._side, self._side))
        values = self._network(crop.image[None])[0][0, 0]
        return _keypoints(crop, values[:, 1::-1] * self._side, values[:, 2], image)


def open_point_network(file: Path, *, threads: int, device: str) -> PointNetwork:
    """The network of a file, by its kind.

    Raises:
        ModelUnavailable: it is no network, or one for something else.
    """
    if file.suffix == ".tflite":
        return MoveNet(file, threads=threads)
    try:
        return RtmPose(file, threads=threads, device=device)
    except ModelUnavailable:
        raise
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelUnavailable(f"{file.name} cannot be run: {str(error)[:200]}", "get the file again") from error


def _region(box: Box, size: tuple[int, int]) -> Region:
    """The box, enlarged, in the proportions of the network's input."""
    x1, y1, x2, y2 = box
    scale = _BOX_SCALE * max((x2 - x1) / size[0], (y2 - y1) / size[1], 1 / min(size))
    return Region((x1 + x2) / 2, (y1 + y2) / 2, scale * size[0], scale * size[1])


def _keypoints(crop: Crop, places: npt.NDArray[Any], scores: Floats, image: Image) -> Keypoints:
    scores = np.clip(np.nan_to_num(scores), 0, 1).astype(np.float32)
    points = inside(crop.to_picture(places.astype(np.float32)), image)
    points[scores < _FOUND] = np.nan
    return Keypoints(COCO_POINTS, points, scores)
