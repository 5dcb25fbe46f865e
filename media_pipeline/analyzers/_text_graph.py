"""A BERT encoder as an ONNX graph, written from its weights.

The installed package brings weights without a program to run them. NumPy does (0.0156 s a sentence of 23 tokens on one
core), but onnxruntime's fused operators are three times as fast (0.0050 s) and run on as many threads as they are
told. ONNX is protocol buffers; the few messages needed here are written by hand, which saves a dependency.

Sources: the ONNX protocol (onnx.proto3, IR version 8), the operators of the domain com.microsoft (onnxruntime's
ContribOperators), the encoder of Devlin et al. 2019, "BERT", layer names as in Hugging Face's `BertModel`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_FLOAT, _INT32 = 1, 6  # TensorProto.DataType
_FUSED = "com.microsoft"


def bert_graph(weights: Mapping[str, Array], heads: int, epsilon: float) -> bytes:
    """The model file of an encoder's layers.

    Inputs: ``embedded`` float32 (batch, tokens, hidden), the sum of the word, position and type embeddings, and
    ``lengths`` int32 (batch), the tokens of each text that are not padding. Output: ``hidden``, same shape as
    ``embedded``. The word embeddings stay outside: they are most of the bytes, and few are needed at a time.

    Raises:
        KeyError: a weight is missing, so these are not the weights of a BERT encoder.
    """
    graph = _Graph(weights)
    width = weights["embeddings.LayerNorm.weight"].shape[0]
    graph.norm("embedded", "layer0", "embeddings.LayerNorm", epsilon)
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        graph.layer(layer, heads, epsilon)
        layer += 1
    graph.node("Identity", [f"layer{layer}"], "hidden")
    shape = ("batch", "tokens", width)
    body = b"".join(graph.parts) + _field(2, "bert")
    body += _value(11, "embedded", _FLOAT, shape) + _value(11, "lengths", _INT32, ("batch",))
    body += _value(12, "hidden", _FLOAT, shape)
    opsets = _field(8, _field(1, "") + _field(2, 17)) + _field(8, _field(1, _FUSED) + _field(2, 1))
    return _field(1, 8) + opsets + _field(7, body)


class _Graph:
    """Nodes and initializers, in the order in which they are computed."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.parts: list[bytes] = []
        self._weights = weights

    def layer(self, number: int, heads: int, epsilon: float) -> None:
        """One transformer layer, from the value `layer<number>` to the next."""
        p, given = f"encoder.layer.{number}.", f"layer{number}"
        projections = [f"{p}attention.self.{name}" for name in ("query", "key", "value")]
        qkv = np.concatenate([self._weights[f"{name}.weight"] for name in projections]).T
        bias = np.concatenate([self._weights[f"{name}.bias"] for name in projections])
        self.constant(f"{p}qkv", qkv)
        self.constant(f"{p}qkv.bias", bias)
        self.node("Attention", [given, f"{p}qkv", f"{p}qkv.bias", "lengths"], f"{p}heads", _FUSED, num_heads=heads)
        self.multiply(f"{p}heads", f"{p}mixed", f"{p}attention.output.dense")
        self.add_norm(f"{p}mixed", given, f"{p}attended", f"{p}attention.output", epsilon)
        self.multiply(f"{p}attended", f"{p}wide", f"{p}intermediate.dense")
        self.constant(f"{p}intermediate.dense.bias")
        self.node("BiasGelu", [f"{p}wide", f"{p}intermediate.dense.bias"], f"{p}active", _FUSED)
        self.multiply(f"{p}active", f"{p}narrow", f"{p}output.dense")
        self.add_norm(f"{p}narrow", f"{p}attended", f"layer{number + 1}", f"{p}output", epsilon)

    def multiply(self, given: str, result: str, name: str) -> None:
        # Linear layers store (out, in); MatMul wants (in, out).
        self.constant(f"{name}.transposed", self._weights[f"{name}.weight"].T)
        self.node("MatMul", [given, f"{name}.transposed"], result)

    def norm(self, given: str, result: str, name: str, epsilon: float) -> None:
        self.node("LayerNormalization", [given, *self._scale(name)], result, axis=-1, epsilon=epsilon)

    def add_norm(self, given: str, skip: str, result: str, name: str, epsilon: float) -> None:
        """LayerNorm(given + bias + skip)."""
        self.constant(f"{name}.dense.bias")
        inputs = [given, skip, *self._scale(f"{name}.LayerNorm"), f"{name}.dense.bias"]
        self.node("SkipLayerNormalization", inputs, result, _FUSED, epsilon=epsilon)

    def _scale(self, name: str) -> tuple[str, str]:
        self.constant(f"{name}.weight")
        self.constant(f"{name}.bias")
        return f"{name}.weight", f"{name}.bias"

    def constant(self, name: str, values: Array | None = None) -> None:
        array = np.ascontiguousarray(self._weights[name] if values is None else values, dtype="<f4")
        dims = b"".join(_field(1, size) for size in array.shape)
        self.parts.append(_field(5, dims + _field(2, _FLOAT) + _field(8, name) + _field(9, array.tobytes())))

    def node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: float) -> None:
        body = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
        body += b"".join(_field(5, _attribute(name, value)) for name, value in attributes.items())
        self.parts.append(_field(1, body + _field(7, domain)))


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    return _field(1, name) + _field(2, value) + _field(20, 1)


def _value(number: int, name: str, kind: int, shape: tuple[str | int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims))))


def _field(number: int, value: int | float | str | bytes) -> bytes:
    """One field of a protocol buffer: varint, 32-bit float or length-delimited, by the value's type."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
