"""Tiny networks with the inputs and outputs of YuNet and SFace, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from media_pipeline.analyzers._onnx_graph import OnnxGraph

_STRIDES = (8, 16, 32)
_BOX_CELLS = 4.0  # sides of a cell in the side of a face's box
_AWAY_CELLS = 4.0  # from the middle of the cell to that of the face, which lies left of it
_POINTS = ((0.2, 0.3), (0.8, 0.3), (0.5, 0.6), (0.3, 0.8), (0.7, 0.8))  # in the box


def tiny_yunet(file: Path) -> Path:
    """A detector of magenta: four cells left of each cell of 32 by 32 pixels that is, there is a face.

    Its outputs are YuNet's: class, objectness, box and five points for each cell of three grids.
    """
    graph = OnnxGraph("tiny_yunet")
    graph.input("input", (1, 3, "height", "width"))
    for stride in _STRIDES:
        pooled = graph.node("AveragePool", ["input"], f"pool{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2)
        # (blue + red) / 2 - green is 255 for magenta; only the coarsest grid ever reaches it.
        magenta = np.asarray([0.5, -1.0, 0.5]) / 40 if stride == _STRIDES[-1] else np.zeros(3)
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            weights = np.zeros((channels, 3, 1, 1), np.float32)
            bias = np.zeros(channels, np.float32)
            if channels == 1:
                weights[0, :, 0, 0], bias[0] = magenta, -1.5
            elif name == "bbox":
                bias[:] = (0.5 - _AWAY_CELLS, 0.5, np.log(_BOX_CELLS), np.log(_BOX_CELLS))
            else:
                corner = np.asarray([0.5 - _AWAY_CELLS, 0.5]) - _BOX_CELLS / 2
                bias[:] = (corner + _BOX_CELLS * np.asarray(_POINTS)).reshape(-1)
            key = f"{name}_{stride}"
            kernel, offset = graph.constant(f"w_{key}", weights), graph.constant(f"b_{key}", bias)
            value = graph.node("Conv", [pooled, kernel, offset], f"map_{key}", kernel_shape=[1, 1])
            if channels == 1:
                value = graph.node("Sigmoid", [value], f"probability_{key}")
            value = graph.node("Transpose", [value], f"last_{key}", perm=[0, 2, 3, 1])
            shape = graph.constant(f"shape_{key}", np.asarray([1, -1, channels]))
            graph.node("Reshape", [value, shape], key)
            graph.output(key, (1, f"cells{stride}", channels))
    file.write_bytes(graph.model())
    return file


def tiny_recogniser(file: Path, dimension: int = 128, seed: int = 0) -> Path:
    """A random projection of the face, reduced to 7 by 7 pixels: one face at a time, as exported networks do."""
    generator = np.random.default_rng(seed)
    graph = OnnxGraph("tiny_recogniser")
    graph.input("data", (1, 3, 112, 112))
    value = graph.node("AveragePool", ["data"], "pooled", kernel_shape=[16, 16], strides=[16, 16])
    value = graph.node("Reshape", [value, graph.constant("flat", np.asarray([1, 147]))], "pixels")
    weights = graph.constant("weights", generator.normal(size=(147, dimension)).astype(np.float32))
    graph.node("MatMul", [value, weights], "fc1")
    graph.output("fc1", (1, dimension))
    file.write_bytes(graph.model())
    return file
