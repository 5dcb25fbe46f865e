"""ONNX model files written by hand: for weights that come without a program to run them.

ONNX is protocol buffers, and the few messages a network needs are short. Writing them saves a dependency, and the
network runs on onnxruntime's fast operators, from many threads at once, instead of the library it was trained with.

Source: the ONNX protocol (onnx.proto3, IR version 8).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FLOAT, INT32, INT64 = 1, 6, 7  # TensorProto.DataType
Attribute = int | float | Sequence[int]


class OnnxGraph:
    """Nodes and constants, in the order in which they are computed; values are named by the caller."""

    def __init__(self, name: str, opset: int = 17) -> None:
        self._name, self._opsets = name, {"": opset}
        self._parts: list[bytes] = []
        self._values: list[bytes] = []

    def input(self, name: str, shape: Sequence[str | int], kind: int = FLOAT) -> None:
        """FLOAT, INT32 or INT64; a word in the shape stands for a size that may vary."""
        self._values.append(_value(11, name, shape, kind))

    def output(self, name: str, shape: Sequence[str | int]) -> None:
        self._values.append(_value(12, name, shape))

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """float32, or int64 for sizes and positions. Returns the name."""
        kind = INT64 if np.issubdtype(values.dtype, np.integer) else FLOAT
        array = np.ascontiguousarray(values, dtype="<i8" if kind == INT64 else "<f4")
        dims = b"".join(_field(1, size) for size in array.shape)
        self._parts.append(_field(5, dims + _field(2, kind) + _field(8, name) + _field(9, array.tobytes())))
        return name

    def node(
        self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Attribute
    ) -> str:
        """One operator, of the standard domain or of version 1 of another. Returns the name of its output."""
        body = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
        body += b"".join(_field(5, _attribute(name, value)) for name, value in attributes.items())
        self._parts.append(_field(1, body + _field(7, domain)))
        self._opsets.setdefault(domain, 1)
        return output

    def model(self) -> bytes:
        """The whole model file."""
        body = b"".join([*self._parts, _field(2, self._name), *self._values])
        opsets = b"".join(_field(8, _field(1, domain) + _field(2, version)) for domain, version in self._opsets.items())
        return _field(1, 8) + opsets + _field(7, body)


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    if isinstance(value, float):
        return _field(1, name) + _field(2, value) + _field(20, 1)
    return _field(1, name) + b"".join(_field(8, number) for number in value) + _field(20, 7)


def _value(number: int, name: str, shape: Sequence[str | int], kind: int = FLOAT) -> bytes:
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
