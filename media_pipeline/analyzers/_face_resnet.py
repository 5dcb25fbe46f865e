"""dlib's face recognition network, read from dlib's file and run by onnxruntime.

dlib itself needs 83 ms a face (dlib-bin 20 has no BLAS) and holds Python's interpreter lock meanwhile, so one face
stops every other medium. The same weights as an ONNX graph need a fraction of that, from as many threads as wanted.

Sources: dlib's `dnn_face_recognition_ex.cpp` (a ResNet of 29 layers after He et al. 2016, with the filters halved) and
`serialize()` in dlib's `dnn/layers.h` and `cuda/tensor.h`; batch normalisation is stored as a scale and a shift.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._onnx_graph import OnnxGraph
from media_pipeline.errors import ModelUnavailable

Floats = npt.NDArray[np.float32]

SIDE_PX = 150
DIMENSION = 128

# input_rgb_image_sized<150>: these means, then a division by 256.
_MEANS = np.asarray([122.782, 117.001, 104.298], np.float32)
# (filters, blocks, whether the first block halves the picture), from the input to the output.
_LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
# A layer begins with its name, which has its length before it; then comes its first tensor.
_LAYER = re.compile(rb"\x01(?:\x05con_4|\x07affine_|\x04fc_2)")


def resnet_graph(file: Path) -> bytes:
    """The model file of the network.

    Input: ``image`` float32 (faces, 3, 150, 150), RGB from 0 to 255, aligned as `_face_crop.aligned` does.
    Output: ``embedding`` float32 (faces, 128), not normalised: the same person's lie within 0.6 of each other.

    Raises:
        ModelUnavailable: the file holds other layers than this network has.
    """
    try:
        return _Resnet(_tensors(file.read_bytes())).model()
    except (StopIteration, ValueError, IndexError):
        raise ModelUnavailable(
            f"{file.name} is not dlib's face recognition network", "install face_recognition_models again"
        ) from None


class _Resnet:
    """Writes the layers in the order of the file, which is the order of computation."""

    def __init__(self, tensors: Iterator[Floats]) -> None:
        self._tensors = tensors
        self._graph = OnnxGraph("face_recognition_resnet")
        self._count = 0

    def model(self) -> bytes:
        graph = self._graph
        graph.input("image", ("faces", 3, SIDE_PX, SIDE_PX))
        means = graph.constant("means", _MEANS.reshape(3, 1, 1))
        value = self._node("Sub", "image", means)
        value = self._node("Div", value, graph.constant("range", np.asarray(256, np.float32)))
        value = self._relu(self._convolution(value, 3, 32, 7, stride=2))
        value = self._node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2])
        given, side = 32, 35
        for filters, blocks, halves in _LEVELS:
            for block in range(blocks):
                value, side = self._residual(value, side, given, filters, 2 if halves and block == 0 else 1)
                given = filters
        value = self._node("ReduceMean", value, axes=[2, 3], keepdims=0)
        weights = graph.constant("fc", next(self._tensors).reshape(given, DIMENSION))
        graph.node("MatMul", [value, weights], "embedding")
        graph.output("embedding", ("faces", DIMENSION))
        return graph.model()

    def _residual(self, value: str, side: int, given: int, filters: int, stride: int) -> tuple[str, int]:
        """relu(block(value) + value); where the two differ in size, dlib fills the smaller with zeros."""
        inner = self._relu(self._convolution(value, given, filters, 3, stride))
        inner = self._convolution(inner, filters, filters, 3, 1)
        if stride == 1:
            return self._relu(self._node("Add", inner, value)), side
        inner_side, pooled_side = (side - 3) // 2 + 1, side // 2
        value = self._node("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])
        value = self._padded(value, filters - given, 0)
        inner = self._padded(inner, 0, pooled_side - inner_side)
        return self._relu(self._node("Add", inner, value)), pooled_side

    def _convolution(self, value: str, given: int, filters: int, size: int, stride: int) -> str:
        """A convolution with its scale and shift folded in. dlib pads only where the stride is 1."""
        weights, bias = np.split(next(self._tensors), [-filters])
        scale, shift = np.split(next(self._tensors), 2)
        kernel = weights.reshape(filters, given, size, size) * scale.reshape(filters, 1, 1, 1)
        self._count += 1
        constants = (
            self._graph.constant(f"kernel{self._count}", kernel),
            self._graph.constant(f"bias{self._count}", bias * scale + shift),
        )
        padding = [size // 2 if stride == 1 else 0] * 4
        return self._node("Conv", value, *constants, kernel_shape=[size, size], strides=[stride, stride], pads=padding)

    def _padded(self, value: str, channels: int, pixels: int) -> str:
        """Zeros after the last channel, row and column."""
        if not channels and not pixels:
            return value
        self._count += 1
        sizes = np.asarray([0, 0, 0, 0, 0, channels, pixels, pixels], np.int64)
        return self._node("Pad", value, self._graph.constant(f"padding{self._count}", sizes))

    def _relu(self, value: str) -> str:
        return self._node("Relu", value)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self._count += 1
        return self._graph.node(operator, inputs, f"{operator}{self._count}", **attributes)


def _tensors(data: bytes) -> Iterator[Floats]:
    """The parameters of each layer that has any, from the input to the output, each of shape (n,)."""
    position = 0
    while found := _LAYER.search(data, position):
        position = found.end()
        if found.group().endswith(b"fc_2"):
            for _ in range(2):  # outputs, inputs
                _, position = _integer(data, position)
        _version, position = _integer(data, position)
        size = 1
        for _ in range(4):  # samples, channels, rows, columns
            dimension, position = _integer(data, position)
            size *= dimension
        values = np.frombuffer(data, "<f4", size, position)
        position += values.nbytes
        yield np.asarray(values, np.float32)


def _integer(data: bytes, position: int) -> tuple[int, int]:
    """dlib writes how many bytes follow, then those, lowest first."""
    count = data[position]
    if not 1 <= count <= 8:
        raise ValueError(f"no integer at byte {position}")
    end = position + 1 + count
    return int.from_bytes(data[position + 1 : end], "little"), end
