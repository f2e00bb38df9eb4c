"""Writes the quantized form of one float graph, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization import product_nodes
from neo_edge_export.quantization.external_data import ExternalDataWriter
from neo_edge_export.quantization.float_graph import FloatGraph, Product, shared_inputs
from neo_edge_export.quantization.group_inputs import ACTIVATIONS, GroupInputs
from neo_edge_export.quantization.groups import activation_group
from neo_edge_export.quantization.product_error import ProductError
from neo_edge_export.quantization.product_nodes import GraphEditor
from neo_edge_export.quantization.recipe import LayerRule, Recipe, Scheme
from neo_edge_export.quantization.stored_weight import WeightStore, fitting_group
from neo_edge_export.quantization.weight_rounding import ScaleType

_INT4_OPSET = 21  # the first whose DequantizeLinear takes INT4 and blocks
_LARGEST = 127


@dataclass(frozen=True)
class WrittenGraph:
    """What came of a graph."""

    opset: int
    snr_db: Mapping[str, float]  # of each rounded product that calibration has seen inputs of


def write_graph(
    graph: FloatGraph,
    path: Path,
    recipe: Recipe,
    rules: Mapping[str, LayerRule],
    inputs: GroupInputs,
    on_product: Callable[[], None] = lambda: None,
) -> WrittenGraph:
    """Turns the graph into its quantized form and writes it as `path`, its tensors beside it as `path`.data.

    Args:
        graph: fresh from its file; its model is changed here.
        path: the .onnx file.
        recipe: the profile and the types of scales.
        rules: by product, what becomes of it.
        inputs: what calibration knows of the products' inputs.
        on_product: called before each product's weight is written.

    Raises:
        QuantizationError: a weight holds NaN or infinity.
        OSError: the files cannot be written.
    """
    with ExternalDataWriter(path.with_name(f"{path.name}.data")) as data:
        writer = _GraphWriter(graph, recipe, rules, inputs, data)
        for group in shared_inputs(graph.products):
            writer.write_group(group, on_product)
        writer.write_others()
    model = graph.model
    schemes = {rules[product.name].scheme for product in graph.products}
    if "w4" in schemes and recipe.profile == "portable":
        model.graph.opset_imports[""] = max(model.graph.opset_imports[""], _INT4_OPSET)
    if schemes & {"w4", "w8a8-token"} and recipe.profile == "modern":
        model.graph.opset_imports[product_nodes.MICROSOFT] = 1
    ir.save(model, path)
    return WrittenGraph(model.graph.opset_imports[""], writer.snr_db)


class _GraphWriter:
    """The state of one `write_graph`."""

    def __init__(
        self,
        graph: FloatGraph,
        recipe: Recipe,
        rules: Mapping[str, LayerRule],
        inputs: GroupInputs,
        data: ExternalDataWriter,
    ) -> None:
        self.snr_db: dict[str, float] = {}
        self._graph, self._recipe, self._rules, self._inputs, self._data = graph, recipe, rules, inputs, data
        self._edit = GraphEditor(graph.model.graph)
        self._store = WeightStore(graph, recipe.profile, data)
        weights = {product.weight for product in graph.products}
        self._others = [name for name in graph.model.graph.initializers if name not in weights]

    def write_group(self, group: Sequence[Product], on_product: Callable[[], None]) -> None:
        """All products of one input."""
        together: dict[Scheme, list[tuple[Product, ir.TensorProtocol]]] = {}
        scope = activation_group(group[0])
        for product in group:
            on_product()
            scale = self._write_weight(product)
            if scale is not None:
                together.setdefault(self._rules[product.name].scheme, []).append((product, scale))
        for scheme, members in together.items():
            products, scales = [product for product, _ in members], [scale for _, scale in members]
            if scheme == "w8a8-token":
                product_nodes.token_scaled(self._edit, products, scope, scales)
            elif scheme == "w8a8-tensor":
                dtype = products[0].dtype.numpy()
                step = _storable(self._inputs.clip(products[0]) / _LARGEST, dtype)
                product_nodes.tensor_scaled(self._edit, products, scope, scales, step)
            else:
                for product, scale in members:
                    self._one_by_one(product, scale)

    def write_others(self) -> None:
        """Norms, biases and tables; what smoothing takes from an input goes into the norm before it."""
        for name in self._others:
            fold = self._inputs.fold(name)
            stored = self._graph.model.graph.initializers[name].const_value
            if fold.outputs is None and not isinstance(stored, ir.ExternalTensor):
                continue
            array = np.asarray(self._graph.values(name))
            if fold.outputs is not None:
                array = (array.astype(np.float32) * fold.outputs).astype(array.dtype)
            self._edit.tensor(name, self._data.add(name, array))

    def _write_weight(self, product: Product) -> ir.TensorProtocol | None:
        """Writes a weight; gives its scales, None when it stays float."""
        rule, fold = self._rules[product.name], self._inputs.fold(product.weight)
        if rule.scheme == "float":
            self._edit.tensor(product.weight, self._store.floats(product, fold))
            return None
        rows, activations = self._inputs.rows(product), ACTIVATIONS.get(rule.scheme, "float")
        clip = self._inputs.clip(product) if rule.scheme == "w8a8-tensor" else None
        error, importance = ProductError(rows, activations, clip), self._inputs.importance(product)
        scale_type = self._scale_type(product, rule.scheme)
        if rule.scheme == "w4":
            stored = self._store.int4(
                product, rule, fold, error, importance=importance, rows=rows, scale_type=scale_type
            )
        else:
            stored = self._store.int8(
                product,
                rule,
                fold,
                error,
                importance=importance,
                scale_type=scale_type,
                divisor=_LARGEST if rule.scheme == "w8a8-token" else 1.0,
            )
        self._edit.tensor(product.weight, stored.values)
        if error.snr_db is not None:
            self.snr_db[product.name] = error.snr_db
        return stored.scale

    def _one_by_one(self, product: Product, scale: ir.TensorProtocol) -> None:
        """Schemes that leave activations alone."""
        rule = self._rules[product.name]
        if rule.scheme == "w8":
            product_nodes.weight_only(self._edit, product, scale)
        elif self._recipe.profile == "portable":
            product_nodes.grouped(self._edit, product, scale, fitting_group(rule, product))
        else:
            product_nodes.grouped_fused(
                self._edit,
                product,
                scale,
                fitting_group(rule, product),
                scale_type=self._scale_type(product, "w4"),
            )

    def _scale_type(self, product: Product, scheme: Scheme) -> ScaleType:
        """The graph's own type where Q/DQ gives the type of its scale; else what is the more exact or was asked for."""
        if scheme == "w8a8-token":
            return "float32"
        if scheme == "w4" and self._recipe.profile == "modern":
            return self._recipe.scale_type
        return "float16" if product.dtype == ir.DataType.FLOAT16 else "float32"


def _storable(step: float, dtype: np.dtype[np.generic]) -> np.generic:
    """A positive scale in the graph's type."""
    smallest = float(np.finfo(str(dtype)).smallest_normal)
    stored: np.generic = dtype.type(max(step, smallest))
    if not np.isfinite(stored):
        raise QuantizationError(
            f"an activation's scale is {step:g}, which {dtype} cannot hold: use a float32 source"
        )
    return stored
