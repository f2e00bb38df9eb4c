"""Our operators in the portable profile: plain ONNX operators of opset 20.

For TensorRT 10.3 to 10.14 and ONNX Runtimes before 1.25. Caches are inputs only: a run hands out the new keys
and values, which the runtime appends. Attention is one softmax over [q.K_cache, q.K_new]. Types are explicit,
as strongly typed TensorRT networks want them; norms and softmax are float32 in every precision.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from neo_edge_export.graph_builder import GraphBuilder
from neo_edge_export.translate_modern import take_rows
from neo_edge_export.translation import Call, Table

_INVISIBLE = np.float32(-1e30)  # finite, so that no sum of masks is a NaN; its exponential is 0


def rms_norm(build: GraphBuilder, call: Call) -> ir.Value:
    """In the form that ONNX Runtime recognizes and fuses to one kernel."""
    x, weight = call.value(0), call.value(1)
    wide = build.cast(x, ir.DataType.FLOAT)
    square = build.op("Pow", wide, build.scalar(np.float32(2)))
    mean = build.op("ReduceMean", square, build.ints(-1), keepdims=1)
    root = build.op("Sqrt", build.op("Add", mean, build.scalar(np.float32(call.number(2)))))
    normed = build.op("Mul", build.op("Div", wide, root), build.cast(weight, ir.DataType.FLOAT))
    return build.cast(normed, _dtype(x))


def rotary(build: GraphBuilder, call: Call) -> ir.Value:
    """x * [c0 c0 c1 c1 ..] + (x with the two of each pair swapped) * [-s0 s0 -s1 s1 ..]."""
    x, cos, sin = call.value(0), call.value(1), call.value(2)
    even, odd = build.split(build.op("Reshape", x, build.ints(0, 0, 0, -1, 2)), 2, -1)
    swapped = _join_pairs(build, odd, even)
    cos, sin = (build.op("Unsqueeze", value, build.ints(1, 4)) for value in (cos, sin))
    turned = build.op("Mul", swapped, _join_pairs(build, build.op("Neg", sin), sin))
    return build.op("Add", build.op("Mul", x, _join_pairs(build, cos, cos)), turned)


def cache_update(_build: GraphBuilder, call: Call) -> ir.Value:
    """The new rows alone: this graph has no cache output."""
    return call.value(1)


def visibility(build: GraphBuilder, call: Call) -> ir.Value:
    """[B, 1, group * S, C + S] float32, to be added to the scores of grouped query heads."""
    visible_length, write_index, cache, group = call.value(0), call.value(1), call.value(2), call.integer(3)
    before = build.op("Unsqueeze", write_index, build.ints(1))
    masks = [
        _mask(build, build.length(cache, 2), build.op("Min", visible_length, before)),
        _mask(build, build.length(visible_length, 1), build.op("Sub", visible_length, before)),
    ]
    mask = build.op("Unsqueeze", build.op("Concat", *masks, axis=-1), build.ints(1))
    return mask if group == 1 else build.op("Concat", *[mask] * group, axis=2)


def attention(build: GraphBuilder, call: Call) -> ir.Value:
    """Query heads that share a key head are rows of one product, so nothing is repeated."""
    query, key, value, key_cache, value_cache, mask = (call.value(position) for position in range(6))
    heads, width = call.size(1), call.size(3)
    kv_heads, head_dim = (_fixed(value_cache, axis) for axis in (1, 3))
    grouped = build.op("Reshape", query, build.ints(0, kv_heads, -1, width))
    scores = [build.op("MatMul", grouped, _transposed(build, keys)) for keys in (key_cache, key)]
    wide = build.cast(build.op("Concat", *scores, axis=-1), ir.DataType.FLOAT)
    weights = build.cast(build.op("Softmax", build.op("Add", wide, mask), axis=-1), _dtype(query))
    # The values of the cache are not copied to one tensor with the new ones: the weights are cut instead.
    capacity = build.length(key_cache, 2)
    end = build.ints(np.iinfo(np.int64).max)
    of_cache = build.op("Slice", weights, build.ints(0), capacity, build.ints(3))
    of_new = build.op("Slice", weights, capacity, end, build.ints(3))
    attended = build.op("Add", build.op("MatMul", of_cache, value_cache), build.op("MatMul", of_new, value))
    return build.op("Reshape", attended, build.ints(0, heads, -1, head_dim))


PORTABLE: Table = {
    "neo_edge.rms_norm.default": rms_norm,
    "neo_edge.rotary.default": rotary,
    "neo_edge.cache_update.default": cache_update,
    "neo_edge.visibility.default": visibility,
    "neo_edge.attention.default": attention,
    "neo_edge.take_rows.default": take_rows,
}


def _join_pairs(build: GraphBuilder, first: ir.Value, second: ir.Value) -> ir.Value:
    """[.., n, 1] twice to [.., 2n], alternating."""
    return build.op("Reshape", build.op("Concat", first, second, axis=-1), build.ints(0, 0, 0, -1))


def _mask(build: GraphBuilder, columns: ir.Value, limit: ir.Value) -> ir.Value:
    """[B, S, columns] float32: 0 in the first `limit` [B, S] columns."""
    zero, one = build.scalar(np.int32(0)), build.scalar(np.int32(1))
    count = build.cast(build.op("Squeeze", columns), ir.DataType.INT32)
    index = build.op("Range", zero, count, one)
    visible = build.op("Less", index, build.op("Unsqueeze", limit, build.ints(2)))
    mask = build.op("Where", visible, build.scalar(np.float32(0)), build.scalar(_INVISIBLE))
    mask.dtype = ir.DataType.FLOAT
    return mask


def _transposed(build: GraphBuilder, keys: ir.Value) -> ir.Value:
    return build.op("Transpose", keys, perm=(0, 1, 3, 2))


def _fixed(value: ir.Value, axis: int) -> int:
    assert value.shape is not None
    size = value.shape[axis]
    assert isinstance(size, int), size
    return size


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
