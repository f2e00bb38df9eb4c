"""Weights as small integers and their scales: numpy in, numpy out, one weight at a time.

Scales are symmetric and strictly positive, as TensorRT wants them. Every column (output) is rounded for itself, so a
weight may also be rounded in slices of columns. docs/quantization-math.md derives what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization import scale_search
from neo_edge_export.quantization.error_compensation import compensation, round_compensated

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]
ScaleType = Literal["float32", "float16"]

GROUP_SIZES = (16, 32, 64, 128)  # what both ONNX Runtime's MatMulNBits and TensorRT's block quantization take
_INT8, _INT4 = (-127, 127), (-8, 7)
_INT8_ROWS = (
    32  # rows of weights whose errors are gathered before they are passed on; any number gives the same
)
_LEAST_IMPORTANCE = 1e-3  # of an input, in shares of the mean
# Numbers that are worked on at once: float32 copies of them stay in a core's second-level cache.
_BLOCK = 1 << 16


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
    rows: npt.NDArray[np.floating] | None = None,
    scale_type: ScaleType = "float32",
    name: str = "weight",
) -> RoundedInt8:
    """A weight in int8 with one scale for each output.

    Args:
        weight: [K, N] float32.
        clip: search the scale that gives the least squared error, instead of the one that clips nothing.
        importance: [K], the mean square of each input: what an error in its row of weights costs. All alike when
            None.
        rows: [R, K], inputs that the product has seen. With them each row of weights also makes up for the error
            that rounding the rows before it has brought into the outputs.
        scale_type: the type that the graph stores scales in; they are rounded to it before the values are.
        name: of the weight, for errors.

    Raises:
        QuantizationError: the weight, rows or importance hold NaN or infinity, or do not fit each other.
    """
    inputs, outputs = _checked_shape(weight, name)
    costs = _checked_importance(importance, inputs, name)
    plan = None if rows is None else compensation(_checked_rows(rows, inputs, name), importance, _INT8_ROWS)
    values = np.empty((inputs, outputs), np.int8)
    scale = np.empty(outputs, np.float32)
    for part in _column_slices(inputs if plan is None else _INT8_ROWS, outputs):
        block = np.ascontiguousarray(weight[:, part], np.float32)
        largest = _checked_largest(block, name)
        if clip:
            found = scale_search.searched_scale(block, costs, *_INT8, scale_search.INT8_SHARES)
        else:
            found = scale_search.largest_scale(largest, _INT8[1])
        scale[part] = stored = _stored(found, scale_type)
        if plan is None:
            values[:, part] = scale_search.rounded_to(block, stored, *_INT8)
        else:
            values[:, part], _ = round_compensated(block, plan, _INT8, partial(_same, stored))
    return RoundedInt8(values, scale)


def round_int4(
    weight: Matrix,
    group_size: int,
    *,
    importance: Vector | None = None,
    rows: npt.NDArray[np.floating] | None = None,
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
    plan = None if rows is None else compensation(_checked_rows(rows, inputs, name), importance, group_size)

    def find_scale(block: Matrix, span: slice) -> Vector:
        found = scale_search.searched_scale(
            block, None if costs is None else costs[span], *_INT4, scale_search.INT4_SHARES
        )
        return _stored(found, scale_type)

    for part in _column_slices(group_size, outputs):
        block = np.ascontiguousarray(weight[:, part], np.float32)
        _checked_largest(block, name)
        if plan is not None:
            values[:, part], scale[:, part] = round_compensated(block, plan, _INT4, find_scale)
            continue
        for group, start in enumerate(range(0, inputs, group_size)):
            span = slice(start, start + group_size)
            scale[group, part] = find_scale(block[span], span)
            values[span, part] = scale_search.rounded_to(block[span], scale[group, part], *_INT4)
    return RoundedInt4(values, scale, group_size)


def _same(scale: Vector, _rows: Matrix, _span: slice) -> Vector:
    return scale


def _column_slices(rows: int, outputs: int) -> Iterator[slice]:
    step = max(16, _BLOCK // rows)
    for start in range(0, outputs, step):
        yield slice(start, min(start + step, outputs))


def _stored(scale: Vector, scale_type: ScaleType) -> Vector:
    if scale_type == "float32":
        return scale
    smallest = np.finfo(np.float16).smallest_subnormal
    stored: Vector = np.maximum(scale.astype(np.float16), smallest).astype(np.float32)
    return stored


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


def _checked_rows(rows: npt.NDArray[np.floating], inputs: int, name: str) -> npt.NDArray[np.floating]:
    if rows.ndim != 2 or rows.shape[1] != inputs or not len(rows):
        raise QuantizationError(
            f"the sampled inputs of {name} have shape {rows.shape}: (rows, {inputs}) fits the weight; "
            "calibrate this very bundle"
        )
    if not np.isfinite(rows).all():
        raise QuantizationError(f"the sampled inputs of {name} hold NaN or infinity: calibrate again")
    return rows


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
    costs: Vector = (importance / mean + _LEAST_IMPORTANCE).astype(np.float32)
    return costs
