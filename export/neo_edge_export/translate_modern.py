"""Our operators in the modern profile (opset 24): one ONNX operator each.

For ONNX Runtime >= 1.25. The mask is boolean, which is as fast as a float one there and has no type of its own to
convert.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from neo_edge_export.graph_builder import GraphBuilder
from neo_edge_export.translation import Call, Table


def rms_norm(build: GraphBuilder, call: Call) -> ir.Value:
    """Float32 inside whatever the type, by the default of `stash_type`."""
    return build.op("RMSNormalization", call.value(0), call.value(1), axis=-1, epsilon=call.number(2))


def rotary(build: GraphBuilder, call: Call) -> ir.Value:
    """One operator turns T, H and W."""
    return build.op("RotaryEmbedding", call.value(0), call.value(1), call.value(2), interleaved=1)


def cache_update(build: GraphBuilder, call: Call) -> ir.Value:
    """In place when a runtime binds input and output to the same memory."""
    index = build.cast(call.value(2), ir.DataType.INT64)
    return build.op("TensorScatter", call.value(0), call.value(1), index, axis=2)


def visibility(build: GraphBuilder, call: Call) -> ir.Value:
    """[B, 1, S, C] bool."""
    visible_length, _, cache = call.value(0), call.value(1), call.value(2)
    capacity = build.op("Squeeze", build.length(cache, 2))
    zero, one = build.scalar(np.int32(0)), build.scalar(np.int32(1))
    columns = build.op("Range", zero, build.cast(capacity, ir.DataType.INT32), one)
    mask = build.op("Less", columns, build.op("Unsqueeze", visible_length, build.ints(1, 3)))
    mask.dtype = ir.DataType.BOOL
    return mask


def attention(build: GraphBuilder, call: Call) -> ir.Value:
    """Scale 1.0: 1/sqrt(d) is in the query norms, and ONNX Runtime's decode is twice as fast without one."""
    query, key, value, mask = call.value(0), call.value(1), call.value(2), call.value(5)
    return build.op("Attention", query, key, value, mask, scale=1.0)


def take_rows(build: GraphBuilder, call: Call) -> ir.Value:
    """GatherND with one batch dimension; it takes int64 only."""
    index = build.op("Unsqueeze", build.cast(call.value(1), ir.DataType.INT64), build.ints(2))
    return build.op("GatherND", call.value(0), index, batch_dims=1)


MODERN: Table = {
    "neo_edge.rms_norm.default": rms_norm,
    "neo_edge.rotary.default": rotary,
    "neo_edge.cache_update.default": cache_update,
    "neo_edge.visibility.default": visibility,
    "neo_edge.attention.default": attention,
    "neo_edge.take_rows.default": take_rows,
}
