"""PyTorch's own operators, as far as `lowered.py` uses them; the same ONNX in both profiles.

Reshapes copy dimensions with 0, so no shape is computed when the graph runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from neo_edge_export.graph_builder import GraphBuilder
from neo_edge_export.translation import Call, Table, Translation


def _same(op_type: str, inputs: int) -> Translation:
    """The ONNX operator that takes the same tensors."""

    def translation(build: GraphBuilder, call: Call) -> ir.Value:
        return build.op(op_type, *(call.value(position) for position in range(inputs)))

    return translation


def _to(build: GraphBuilder, call: Call) -> ir.Value:
    return build.cast(call.value(0), call.dtype(1))


def _transpose(build: GraphBuilder, call: Call) -> ir.Value:
    order = list(range(call.rank))
    first, second = call.axis(1), call.axis(2)
    order[first], order[second] = second, first
    return build.op("Transpose", call.value(0), perm=order)


def _unflatten(build: GraphBuilder, call: Call) -> ir.Value:
    assert call.axis(1) == call.rank - 1, "only the last dimension is unflattened"
    return build.op("Reshape", call.value(0), build.ints(*[0] * (call.rank - 1), *call.integers(2)))


def _flatten(build: GraphBuilder, call: Call) -> ir.Value:
    return build.op("Reshape", call.value(0), build.ints(*[0] * call.axis(1), -1))


def _view(build: GraphBuilder, call: Call) -> ir.Value:
    sizes = call.integers(1)
    assert 0 not in sizes, "0 would copy a dimension"
    return build.op("Reshape", call.value(0), build.ints(*sizes))


def _unsqueeze(build: GraphBuilder, call: Call) -> ir.Value:
    return build.op("Unsqueeze", call.value(0), build.ints(call.integer(1)))


def _cat(build: GraphBuilder, call: Call) -> ir.Value:
    return build.op("Concat", *call.values(0), axis=call.integer(1))


def _chunk(build: GraphBuilder, call: Call) -> Sequence[ir.Value]:
    return build.split(call.value(0), call.integer(1), call.integer(2))


def _index_select(build: GraphBuilder, call: Call) -> ir.Value:
    return build.op("Gather", call.value(0), call.value(2), axis=call.integer(1))


def _silu(build: GraphBuilder, call: Call) -> ir.Value:
    # Not Swish-24: ONNX Runtime fuses these two into one kernel and takes Swish apart with a Cast more.
    return build.op("Mul", call.value(0), build.op("Sigmoid", call.value(0)))


ATEN: Table = {
    "aten.matmul.default": _same("MatMul", 2),
    "aten.add.Tensor": _same("Add", 2),
    "aten.mul.Tensor": _same("Mul", 2),
    "aten.cos.default": _same("Cos", 1),
    "aten.sin.default": _same("Sin", 1),
    "aten.gelu.default": _same("Gelu", 1),  # both mean the exact one when nothing is said
    "aten.silu.default": _silu,
    "aten.to.dtype": _to,
    "aten.transpose.int": _transpose,
    "aten.unflatten.int": _unflatten,
    "aten.flatten.using_ints": _flatten,
    "aten.view.default": _view,
    "aten.unsqueeze.default": _unsqueeze,
    "aten.cat.default": _cat,
    "aten.chunk.default": _chunk,
    "aten.index_select.default": _index_select,
}
