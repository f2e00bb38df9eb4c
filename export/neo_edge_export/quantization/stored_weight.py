"""Rounds one weight and writes it as its scheme stores it, a slice of columns at a time where that will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from neo_edge.manifest import OpsProfile
from neo_edge_export.quantization import packing
from neo_edge_export.quantization.external_data import ExternalDataWriter
from neo_edge_export.quantization.float_graph import FloatGraph, Product
from neo_edge_export.quantization.fold import Fold
from neo_edge_export.quantization.product_error import ProductError
from neo_edge_export.quantization.recipe import LayerRule
from neo_edge_export.quantization.weight_rounding import ScaleType, round_int4, round_int8

Array = npt.NDArray[np.generic]
Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StoredWeight:
    """A weight in the graph's file."""

    values: ir.TensorProtocol
    scale: ir.TensorProtocol


class WeightStore:
    """Writes the weights of one graph, each in the form that its rule asks for."""

    def __init__(self, graph: FloatGraph, profile: OpsProfile, data: ExternalDataWriter) -> None:
        self._graph, self._profile, self._data = graph, profile, data

    def floats(self, product: Product, fold: Fold) -> ir.TensorProtocol:
        """As it was, but for what is folded in."""
        dtype = self._graph.values(product.weight).dtype
        parts = (fold.apply(part, columns).astype(dtype) for columns, part in self._graph.columns(product))
        shape = (product.inputs, product.outputs)
        return self._data.add_columns(product.weight, dtype, shape, parts)

    def int8(
        self,
        product: Product,
        rule: LayerRule,
        fold: Fold,
        error: ProductError,
        *,
        importance: Vector | None,
        scale_type: ScaleType,
        divisor: float = 1.0,
    ) -> StoredWeight:
        """int8 [K, N] and a scale for each output, which is stored divided by `divisor`."""
        scale = np.empty(product.outputs, np.float32)

        def rounded() -> Iterator[Array]:
            for columns, part in self._graph.columns(product):
                weight = fold.apply(part, columns)
                found = round_int8(
                    weight,
                    clip=rule.rounding == "clipped",
                    importance=importance,
                    scale_type=scale_type,
                    name=product.name,
                )
                error.add(weight, found.dequantized())
                scale[columns] = found.scale
                yield found.values

        shape = (product.inputs, product.outputs)
        values = self._data.add_columns(product.weight, np.dtype(np.int8), shape, rounded())
        stored_scale = (scale / np.float32(divisor)).astype(scale_type)
        return StoredWeight(values, self._data.add(f"{product.weight}_scale", stored_scale))

    def int4(
        self,
        product: Product,
        rule: LayerRule,
        fold: Fold,
        error: ProductError,
        *,
        importance: Vector | None,
        rows: Matrix | None,
        scale_type: ScaleType,
    ) -> StoredWeight:
        """INT4 [K, N] and [K / group, N] scales, or the same as MatMulNBits packs them."""
        group_size = fitting_group(rule, product)
        (_, part), *_ = self._graph.columns(product, whole=True)
        weight = fold.apply(part, slice(None))
        found = round_int4(
            weight,
            group_size,
            importance=importance,
            rows=rows if rule.rounding == "compensated" else None,
            scale_type=scale_type,
            name=product.name,
        )
        error.add(weight, found.dequantized())
        if self._profile == "modern":
            packed, scales = packing.pack_matmul_nbits_4(found)
            dtype, shape = ir.DataType.UINT8, packed.shape
        else:
            packed, scales = packing.pack_int4(found.values), found.scale
            dtype, shape = ir.DataType.INT4, found.values.shape
        values = self._data.add_bytes(product.weight, dtype, shape, packed)
        return StoredWeight(values, self._data.add(f"{product.weight}_scale", scales.astype(scale_type)))


def fitting_group(rule: LayerRule, product: Product) -> int:
    """The rule's group, or the largest smaller one that divides the inputs: TensorRT takes no shorter last group."""
    assert rule.group_size is not None
    size = rule.group_size
    while size > 16 and product.inputs % size:
        size //= 2
    return size
