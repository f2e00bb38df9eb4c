"""The decoder as `neo-edge export` and `neo-edge quantize` write it for ONNX Runtime: every operator and its wiring.

What C++ computes was written to equal this graph, so another one must not be taken for it. Values have names of our
own here; graph inputs, outputs, weights and vectors have those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge_runtime.cpu.layout import LAYER_PRODUCTS, LAYER_VECTORS

if TYPE_CHECKING:
    from neo_edge_runtime.cpu.layout import DecoderWidths, Storage

MICROSOFT = "com.microsoft"
OPSETS = {"": 24, MICROSOFT: 1}
_IN_LAYER = {
    **{name: f"self_attn.{name}" for name in (*LAYER_PRODUCTS[:6], *LAYER_VECTORS[1:7])},
    **{name: f"mlp.{name}" for name in LAYER_PRODUCTS[6:]},
}
_FLOAT, _INT32, _INT64 = 1, 6, 7  # what `Cast` calls types


@dataclass(frozen=True)
class Constant:
    """A small tensor that counts by its values, whatever its name."""

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


Value = str | Constant
Attribute = int | float | tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One node but for its name and those of its outputs."""

    op_type: str
    domain: str
    inputs: tuple[Value, ...]
    attributes: frozenset[tuple[str, type, Attribute]]  # the type, since 1 equals 1.0


@dataclass(frozen=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]  # a name for each dimension that a run may choose

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.dims))}]"


def tensor_name(name: str) -> str:
    """The graph's name for a layout's, of a product or vector: `layers.0.self_attn.q_proj.weight`."""
    scope, dot, last = name.rpartition(".")
    return name if name in ("frequency", "axis") else f"{scope}{dot}{_IN_LAYER.get(last, last)}.weight"


def expected_inputs(widths: DecoderWidths) -> list[Port]:
    """In the graph's order."""
    return [
        Port("inputs_embeds", "float32", ("batch", "sequence", widths.hidden)),
        Port("position_ids", "int32", ("batch", 3, "sequence")),
        Port("visible_length", "int32", ("batch", "sequence")),
        Port("write_index", "int32", ("batch",)),
        Port("logits_index", "int32", ("batch", "logits_rows")),
        *_caches(widths, ""),
    ]


def expected_outputs(widths: DecoderWidths) -> list[Port]:
    """In the graph's order."""
    return [Port("logits", "float32", ("batch", "logits_rows", widths.vocab)), *_caches(widths, "_out")]


def _caches(widths: DecoderWidths, suffix: str) -> list[Port]:
    return [
        Port(f"{name}{suffix}.{layer}", "float32", ("batch", widths.kv_heads, "capacity", width))
        for name, width in (("key_cache", 2 * widths.head_dim), ("value_cache", widths.head_dim))
        for layer in range(widths.layers)
    ]


class ExpectedGraph:
    """The operations of a decoder; those that the file shares between their readers are here once, too."""

    def __init__(self, widths: DecoderWidths, storage: Mapping[str, Storage]) -> None:
        """`storage`: of each product, by its name in a layout."""
        self.operations: dict[Operation, tuple[str, ...]] = {}  # the outputs of each
        self._widths, self._storage = widths, storage
        self._shapes = {name: (inputs, outputs) for name, inputs, outputs in widths.products()}
        mask = self._mask()
        cos, sin = self._angles()
        hidden = "inputs_embeds"
        for layer in range(widths.layers):
            hidden = self._layer(f"layers.{layer}.", hidden, layer, cos, sin, mask)
        row = self._op("Unsqueeze", self._op("Cast", "logits_index", to=_INT64), _int64(2))
        rows = self._norm(self._op("GatherND", hidden, row, batch_dims=1), "norm")
        self._product(rows, "lm_head", out="logits")

    def _mask(self) -> str:
        capacity = self._op("Squeeze", self._op("Shape", "key_cache.0", start=2, end=3))
        zero, one = (Constant("int32", (), (number,)) for number in (0, 1))
        columns = self._op("Range", zero, self._op("Cast", capacity, to=_INT32), one)
        return self._op("Less", columns, self._op("Unsqueeze", "visible_length", _int64(1, 3)))

    def _angles(self) -> tuple[str, str]:
        positions = self._op("Transpose", self._op("Cast", "position_ids", to=_FLOAT), perm=(0, 2, 1))
        angle = self._op("Mul", self._op("Gather", positions, "axis", axis=2), "frequency")
        return self._op("Cos", angle), self._op("Sin", angle)

    def _layer(self, scope: str, hidden: str, layer: int, cos: str, sin: str, mask: str) -> str:
        x = self._norm(hidden, f"{scope}input_layernorm")
        query, key = (
            self._op("RotaryEmbedding", self._heads(x, f"{scope}{which}"), cos, sin, interleaved=1)
            for which in "qk"
        )
        value = self._swapped(self._split_heads(self._product(x, f"{scope}v_proj")))
        index = self._op("Cast", "write_index", to=_INT64)
        keys, values = (
            self._op(
                "TensorScatter",
                f"{cache}_cache.{layer}",
                new,
                index,
                axis=2,
                out=f"{cache}_cache_out.{layer}",
            )
            for cache, new in (("key", key), ("value", value))
        )
        attended = self._swapped(self._op("Attention", query, keys, values, mask, scale=1.0))
        merged = self._op("Reshape", attended, _int64(0, 0, -1))
        hidden = self._op("Add", hidden, self._product(merged, f"{scope}o_proj"))
        x = self._norm(hidden, f"{scope}post_attention_layernorm")
        gate = self._product(x, f"{scope}gate_proj")
        activated = self._op("Mul", gate, self._op("Sigmoid", gate))
        product = self._op("Mul", activated, self._product(x, f"{scope}up_proj"))
        return self._op("Add", hidden, self._product(product, f"{scope}down_proj"))

    def _heads(self, x: str, scope: str) -> str:
        """Queries or keys [B, heads, S, 2d] before they are turned."""
        spatial = self._split_heads(self._product(x, f"{scope}_proj_hw"))
        h, w = self._ops("Split", (spatial,), 2, axis=-1, num_outputs=2)
        t = self._split_heads(self._product(x, f"{scope}_proj"))
        parts = (
            self._norm(part, f"{scope}_norm{suffix}") for part, suffix in ((t, ""), (h, "_h"), (w, "_w"))
        )
        return self._swapped(self._op("Concat", *parts, axis=-1))

    def _split_heads(self, x: str) -> str:
        return self._op("Reshape", x, _int64(0, 0, -1, self._widths.head_dim))

    def _swapped(self, x: str) -> str:
        """Heads and tokens."""
        return self._op("Transpose", x, perm=(0, 2, 1, 3))

    def _norm(self, x: str, name: str) -> str:
        return self._op("RMSNormalization", x, tensor_name(name), axis=-1, epsilon=self._widths.epsilon)

    def _product(self, x: str, name: str, out: str | None = None) -> str:
        weight, block = tensor_name(name), self._storage[name].block
        scale = f"{weight}_scale"
        inputs, outputs = self._shapes[name]
        if block is not None:
            return self._op(
                *("MatMulNBits", x, weight, scale),
                domain=MICROSOFT,
                out=out,
                bits=4,
                block_size=block,
                K=inputs,
                N=outputs,
                accuracy_level=4,
            )
        largest = self._op("ReduceMax", self._op("Abs", x), _int64(-1))
        largest = self._op("Max", largest, _number("float32", np.float32(1e-30)))
        middle, one = _number("uint8", np.uint8(128)), _number("float32", np.float32(1))
        step = _number("float32", np.float32(1 / 127))
        quantized = self._op("QuantizeLinear", self._op("Div", x, largest), step, middle)
        scaled = self._op("MatMulIntegerToFloat", quantized, weight, one, scale, middle, domain=MICROSOFT)
        return self._op("Mul", scaled, largest, out=out)

    def _op(
        self, op_type: str, *inputs: Value, domain: str = "", out: str | None = None, **attributes: Attribute
    ) -> str:
        return self._ops(op_type, inputs, 1, domain, out, **attributes)[0]

    def _ops(
        self,
        op_type: str,
        inputs: tuple[Value, ...],
        count: int,
        domain: str = "",
        out: str | None = None,
        **attributes: Attribute,
    ) -> tuple[str, ...]:
        key = Operation(
            op_type,
            domain,
            inputs,
            frozenset((name, type(value), value) for name, value in attributes.items()),
        )
        if key not in self.operations:
            new = f"{op_type}#{len(self.operations)}"
            self.operations[key] = (out,) if out else tuple(f"{new}:{index}" for index in range(count))
        return self.operations[key]


def _int64(*values: int) -> Constant:
    return Constant("int64", (len(values),), values)


def _number(dtype: str, value: np.float32 | np.uint8) -> Constant:
    return Constant(dtype, (), (value.item(),))
