"""Weights as small integers and their scales: numpy in, numpy out, one weight at a time.

Scales are symmetric and strictly positive, as TensorRT wants them. Every column (output) is rounded for itself, so a
weight may also be rounded in slices of columns. docs/quantization-math.md derives what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization import scale_search

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]
ScaleType = Literal["float32", "float16"]

GROUP_SIZES = (16, 32, 64, 128)  # what both ONNX Runtime's MatMulNBits and TensorRT's block quantization take
_BLOCK = (
    1 << 16
)  # numbers that are worked on at once: float32 copies of them stay in a core's second-level cache


@dataclass(frozen=True)
class RoundedInt8:
    """A weight as `values` * `scale`, a scale for each output."""

    values: npt.NDArray[np.int8]  # [K, N] in [-127, 127]
    scale: Vector  # [N], strictly positive

    def dequantized(self) -> Matrix:
        """[K, N] float32."""
        return self.values * self.scale


@dataclass(frozen=True)
class RoundedInt4:
    """A weight as `values` * `scale`, a scale for each output and group of inputs."""

    values: npt.NDArray[np.int8]  # [K, N] in [-8, 7]
    scale: Vector  # [ceil(K / group_size), N], strictly positive; the last group may be shorter
    group_size: int

    def dequantized(self) -> Matrix:
        """[K, N] float32."""
        return self.values * np.repeat(self.scale, self.group_size, axis=0)[: len(self.values)]


def round_int8(
    weight: Matrix,
    *,
    clip: bool = False,
    importance: Vector | None = None,
    scale_type: ScaleType = "float32",
    name: str = "weight",
) -> RoundedInt8:
    """A weight in int8 with one scale for each output.

    Args:
        weight: [K, N] float32.
        clip: search the scale that gives the least squared error, instead of the one that clips nothing.
        importance: [K], the mean square of each input: what an error in its row of weights costs. All alike when
            None; unused without `clip`.
        scale_type: the type that the graph stores scales in; they are rounded to it before the values are.
        name: of the weight, for errors.

    Raises:
        QuantizationError: the weight holds NaN or infinity, or the importance does not fit it.
    """
    inputs, outputs = _checked_shape(weight, name)
    costs = _checked_importance(importance, inputs, name)
    values = np.empty((inputs, outputs), np.int8)
    scale = np.empty(outputs, np.float32)
    for part in _column_slices(inputs, outputs):
        block = np.ascontiguousarray(weight[:, part], np.float32)
        largest = _checked_largest(block, name)
        if clip:
            found = scale_search.searched_scale(block, costs, -127, 127, scale_search.INT8_SHARES)
        else:
            found = scale_search.largest_scale(largest, 127)
        scale[part] = _stored(found, scale_type)
        values[:, part] = scale_search.rounded_to(block, scale[part], -127, 127)
    return RoundedInt8(values, scale)


def round_int4(
    weight: Matrix,
    group_size: int,
    *,
    importance: Vector | None = None,
    rows: npt.NDArray[np.floating] | None = None,  # noqa: ARG001 - comes with the error compensation
    scale_type: ScaleType = "float32",
    name: str = "weight",
) -> RoundedInt4:
    """A weight in int4 with one scale for each output and group of inputs.

    Scales are searched for the least squared error. K need not be a multiple of the group: the last group is shorter
    then, as ONNX's blocked DequantizeLinear and MatMulNBits have it.

    Args:
        weight: [K, N] float32.
        group_size: inputs that share a scale: 16, 32, 64 or 128.
        importance: [K], the mean square of each input; all alike when None.
        rows: [R, K], inputs that the product has seen. With them each row of weights also makes up for the error
            that rounding the rows before it has brought into the outputs.
        scale_type: the type that the graph stores scales in; they are rounded to it before the values are.
        name: of the weight, for errors.

    Raises:
        QuantizationError: the weight, rows or importance hold NaN or infinity, their shapes do not fit, or the group
            size is another.
    """
    if group_size not in GROUP_SIZES:
        allowed = ", ".join(map(str, GROUP_SIZES))
        raise QuantizationError(f"a group of {group_size} weights for {name}: give one of {allowed}")
    inputs, outputs = _checked_shape(weight, name)
    costs = _checked_importance(importance, inputs, name)
    values = np.empty((inputs, outputs), np.int8)
    scale = np.empty((-(-inputs // group_size), outputs), np.float32)
    for part in _column_slices(group_size, outputs):
        for group, start in enumerate(range(0, inputs, group_size)):
            span = slice(start, start + group_size)
            block = np.ascontiguousarray(weight[span, part], np.float32)
            _checked_largest(block, name)
            found = scale_search.searched_scale(
                block, None if costs is None else costs[span], -8, 7, scale_search.INT4_SHARES
            )
            scale[group, part] = _stored(found, scale_type)
            values[span, part] = scale_search.rounded_to(block, scale[group, part], -8, 7)
    return RoundedInt4(values, scale, group_size)


def _column_slices(rows: int, outputs: int) -> Iterator[slice]:
    step = max(16, _BLOCK // rows)
    for start in range(0, outputs, step):
        yield slice(start, min(start + step, outputs))


def _stored(scale: Vector, scale_type: ScaleType) -> Vector:
    if scale_type == "float32":
        return scale
    smallest = np.finfo(np.float16).smallest_subnormal
    return np.maximum(scale.astype(np.float16), smallest).astype(np.float32)


def _checked_shape(weight: Matrix, name: str) -> tuple[int, int]:
    if weight.ndim != 2 or 0 in weight.shape:
        raise QuantizationError(
            f"the weight {name} has shape {weight.shape}: only [inputs, outputs] can be rounded"
        )
    return weight.shape[0], weight.shape[1]


def _checked_largest(block: Matrix, name: str) -> Vector:
    """The largest magnitude of each column; NaN and infinity show in it."""
    largest: Vector = np.abs(block).max(axis=0)
    if not np.isfinite(largest).all():
        raise QuantizationError(
            f"the weight {name} holds NaN or infinity: the checkpoint is damaged, fetch it and export it again"
        )
    return largest


def _checked_importance(importance: Vector | None, inputs: int, name: str) -> Vector | None:
    """Mean 1 and strictly positive: a channel that calibration never saw alive is still rounded sensibly."""
    if importance is None:
        return None
    if importance.shape != (inputs,):
        raise QuantizationError(
            f"the importance of the inputs of {name} has shape {importance.shape}: ({inputs},) fits the weight; "
            "calibrate this very bundle"
        )
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise QuantizationError(
            f"the importance of the inputs of {name} holds NaN, infinity or negative numbers: calibrate again"
        )
    mean = float(importance.mean(dtype=np.float64))
    if mean <= 0:
        return None
    return (importance / mean + _LEAST_IMPORTANCE).astype(np.float32)


_LEAST_IMPORTANCE = 1e-3
