"""Small ONNX graphs written by hand, since the runtime has no `onnx`: nodes between named tensors of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IR_VERSION, OPSET = 8, 18  # every ONNX Runtime that runs a bundle has them
_ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10}


@dataclass(frozen=True)
class NamedTensor:
    """An input or output of a graph."""

    name: str
    dtype: np.dtype[np.generic]
    rank: int  # of free dimensions

    def encoded(self) -> bytes:
        """A ValueInfoProto."""
        element_type = _field(1, _ELEMENT_TYPES[self.dtype.name])
        shape = b"".join(_field(1, _field(2, f"{self.name}.{axis}")) for axis in range(self.rank))
        return _field(1, self.name) + _field(2, _field(1, element_type + _field(2, shape)))


@dataclass(frozen=True)
class Node:
    """One operator without attributes."""

    operator: str
    inputs: tuple[str, ...]
    output: str

    def encoded(self) -> bytes:
        """A NodeProto."""
        names = b"".join(_field(1, name) for name in self.inputs)
        return names + _field(2, self.output) + _field(3, self.output) + _field(4, self.operator)


def model_bytes(
    nodes: Sequence[Node],
    inputs: Sequence[NamedTensor],
    outputs: Sequence[NamedTensor],
) -> bytes:
    """A ModelProto that `InferenceSession` takes.

    Args:
        nodes: in the order in which they run.
        inputs: of the graph.
        outputs: of the graph.
    """
    graph = b"".join(_field(1, node.encoded()) for node in nodes) + _field(2, "moves")
    graph += b"".join(_field(11, tensor.encoded()) for tensor in inputs)
    graph += b"".join(_field(12, tensor.encoded()) for tensor in outputs)
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(1, "") + _field(2, OPSET))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer: a number, or text and nested messages with their length."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
