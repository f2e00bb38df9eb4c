"""The nodes that stand in a quantized graph where a float product stood; one function a scheme.

The output keeps the float node's name, so that both graphs can be read side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from neo_edge_export.quantization.float_graph import Product
from neo_edge_export.quantization.weight_rounding import ScaleType

MICROSOFT = "com.microsoft"
_DTYPE: dict[ScaleType, ir.DataType] = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}
# A row of zeros has no largest number to divide by; any positive one will do.
_LEAST_MAXIMUM = np.float32(1e-30)
_INT8_LARGEST = 127
_NONE: Mapping[str, int] = {}


class GraphEditor:
    """Puts nodes into a graph, before a node that is there."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._used = {node.name for node in graph}

    def op(
        self,
        before: ir.Node,
        scope: str,
        op_type: str,
        *inputs: ir.Value,
        attributes: Mapping[str, int] = _NONE,
        domain: str = "",
    ) -> ir.Value:
        """A new node of one output, named after its scope and type; gives the output."""
        name, count = f"{scope}.{op_type}", 1
        while name in self._used:
            name, count = f"{scope}.{op_type}_{count}", count + 1
        self._used.add(name)
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
        node.outputs[0].name = name
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def cast(
        self, before: ir.Node, scope: str, value: ir.Value, dtype: ir.DataType, of: ir.DataType
    ) -> ir.Value:
        """The value in another type than `of`, its own; the value itself where they are the same."""
        return value if dtype == of else self.op(before, scope, "Cast", value, attributes={"to": int(dtype)})

    def constant(self, name: str, array: npt.NDArray[np.generic] | np.generic) -> ir.Value:
        """A small number or row that all nodes share; made once for each name."""
        initializers = self.graph.initializers
        if name not in initializers:
            self.tensor(name, ir.tensor(np.asarray(array), name=name))
        return initializers[name]

    def tensor(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer, new or in the place of the one of that name."""
        initializers = self.graph.initializers
        if name not in initializers:
            self.graph.register_initializer(ir.Value(name=name, const_value=tensor))
        value = initializers[name]
        value.const_value, value.dtype, value.shape = tensor, tensor.dtype, ir.Shape(tensor.shape.numpy())
        return value

    def replace(self, product: Product, output: ir.Value) -> None:
        """Puts a value where the float product's output was, and removes its node."""
        old, node = product.node.outputs[0], product.node
        name, producer = old.name, output.producer()
        assert producer is not None
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        output.type, output.shape = old.type, old.shape
        self.graph.remove(node, safe=True)
        output.name, producer.name = name, node.name


def token_scaled(
    edit: GraphEditor,
    products: Sequence[Product],
    scope: str,
    scales: Sequence[ir.TensorProtocol],
) -> None:
    """Integer products whose activations get a scale for each token, found in the run (`w8a8-token`).

    Args:
        edit: the graph.
        products: of one input, which is quantized once; their weights are int8 [K, N] already.
        scope: of the nodes that quantize it.
        scales: for each product [N] float32: its weight scales over 127, the step of activations within -1 to 1.
    """
    first, value, of = products[0].node, products[0].activation, products[0].dtype
    value = edit.cast(first, scope, value, ir.DataType.FLOAT, of)
    last_axis = edit.constant("quantization.last_axis", np.array([-1], np.int64))
    least = edit.constant("quantization.least_maximum", _LEAST_MAXIMUM)
    step = edit.constant("quantization.step", np.float32(1 / _INT8_LARGEST))
    middle = edit.constant("quantization.middle", np.uint8(128))  # ONNX Runtime's fast kernels take u8 by s8
    one = edit.constant("quantization.one", np.float32(1))
    largest = edit.op(first, scope, "ReduceMax", edit.op(first, scope, "Abs", value), last_axis)
    largest = edit.op(first, scope, "Max", largest, least)
    within_one = edit.op(first, scope, "Div", value, largest)
    quantized = edit.op(first, scope, "QuantizeLinear", within_one, step, middle)
    for product, scale in zip(products, scales, strict=True):
        node, name = product.node, _scope(product)
        weight, weight_scale = (
            edit.graph.initializers[product.weight],
            edit.tensor(f"{product.weight}_scale", scale),
        )
        # As MatMulInteger, Cast and Mul to the last bit, without two passes over the output.
        scaled = edit.op(
            node,
            name,
            "MatMulIntegerToFloat",
            *(quantized, weight, one, weight_scale, middle),
            domain=MICROSOFT,
        )
        output = edit.op(node, name, "Mul", scaled, largest)
        edit.replace(product, edit.cast(node, name, output, of, ir.DataType.FLOAT))


def tensor_scaled(
    edit: GraphEditor,
    products: Sequence[Product],
    scope: str,
    scales: Sequence[ir.TensorProtocol],
    scale: np.generic,
) -> None:
    """Explicit, symmetric Q/DQ around float products (`w8a8-tensor`): what TensorRT 10.3 to 11 take.

    Args as of `token_scaled`, but for:
        scales: for each product [N], its weight scales in the graph's float type.
        scale: the input's, positive, in the same type.
    """
    first, value = products[0].node, products[0].activation
    zero = edit.constant("quantization.zero", np.int8(0))
    step = edit.constant(f"{scope}.scale", scale)
    quantized = edit.op(first, scope, "QuantizeLinear", value, step, zero)
    dequantized = edit.op(first, scope, "DequantizeLinear", quantized, step, zero)
    for product, weight_scale in zip(products, scales, strict=True):
        _multiply(edit, product, dequantized, weight_scale, {"axis": 1})


def weight_only(edit: GraphEditor, product: Product, scale: ir.TensorProtocol) -> None:
    """A float product with a weight int8 [K, N], scales [N] (`w8`)."""
    _multiply(edit, product, product.activation, scale, {"axis": 1})


def grouped(edit: GraphEditor, product: Product, scale: ir.TensorProtocol, group_size: int) -> None:
    """A float product with an INT4 weight [K, N] in blocks of inputs, scales [K / group, N] (`w4`, portable)."""
    _multiply(edit, product, product.activation, scale, {"axis": 0, "block_size": group_size})


def grouped_fused(
    edit: GraphEditor,
    product: Product,
    scale: ir.TensorProtocol,
    group_size: int,
    *,
    scale_type: ScaleType,
) -> None:
    """ONNX Runtime's MatMulNBits (`w4`, modern); it takes activations in the type of the scales.

    Args:
        edit: the graph.
        product: its weight is packed already, [N, K / group, group / 2] uint8.
        scale: [N, K / group].
        group_size: inputs that share a scale.
        scale_type: of `scale`.
    """
    node, name, of = product.node, _scope(product), product.dtype
    output = edit.op(
        node,
        name,
        "MatMulNBits",
        edit.cast(node, name, product.activation, _DTYPE[scale_type], of),
        edit.graph.initializers[product.weight],
        edit.tensor(f"{product.weight}_scale", scale),
        domain=MICROSOFT,
        attributes={
            "bits": 4,
            "block_size": group_size,
            "K": product.inputs,
            "N": product.outputs,
            "accuracy_level": 4,  # integer sums; 47 times slower without
        },
    )
    edit.replace(product, edit.cast(node, name, output, of, _DTYPE[scale_type]))


def _multiply(
    edit: GraphEditor,
    product: Product,
    value: ir.Value,
    scale: ir.TensorProtocol,
    attributes: Mapping[str, int],
) -> None:
    node, name = product.node, _scope(product)
    weight = edit.graph.initializers[product.weight]
    stored_scale = edit.tensor(f"{product.weight}_scale", scale)
    widened = edit.op(node, name, "DequantizeLinear", weight, stored_scale, attributes=attributes)
    edit.replace(product, edit.op(node, name, "MatMul", value, widened))


def _scope(product: Product) -> str:
    return product.weight.removesuffix(".weight")
