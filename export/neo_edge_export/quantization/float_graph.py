"""The float graph that a quantized one starts from: its products, and its weights read where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from neo_edge.errors import QuantizationError
from neo_edge.extras import require

Part = Literal["decoder", "vision"]
Matrix = npt.NDArray[np.float32]

_WEIGHT = ".weight"
_SLICE_BYTES = 64 << 20  # float32 bytes of a weight that are in memory at once, where slices will do


@dataclass(frozen=True)
class Product:
    """A matrix product with a stored weight."""

    name: str  # `decoder.layers.0.mlp.up_proj`, as recipes name it
    weight: str  # the initializer
    node: ir.Node  # MatMul
    inputs: int  # K
    outputs: int  # N
    dtype: ir.DataType  # FLOAT or FLOAT16, of weight and input

    @property
    def numbers(self) -> int:
        """K x N."""
        return self.inputs * self.outputs

    @property
    def activation(self) -> ir.Value:
        """What the weight is multiplied by, [..., K]."""
        value = self.node.inputs[0]
        assert value is not None
        return value


class FloatGraph:
    """One graph of a float variant; its external data is mapped, never read as a whole."""

    def __init__(self, path: Path, part: Part) -> None:
        """Reads the graph.

        Raises:
            QuantizationError: it is no graph, or holds no products with stored weights, or some that are not float.
        """
        self.path, self.part = path, part
        protobuf = require("google.protobuf.message", extra="calibrate")  # untyped
        try:
            self.model = ir.load(path)
        except protobuf.DecodeError as error:
            raise QuantizationError(
                f"{path} cannot be read as a graph ({error}): copy or export it again"
            ) from error
        self.products = tuple(self._find_products())
        if not self.products:
            raise QuantizationError(
                f"{path} holds no matrix products with weights: give a bundle of neo-edge export"
            )

    def weight(self, product: Product) -> npt.NDArray[np.floating]:
        """[K, N], mapped from its file where it is large."""
        return self.values(product.weight).view(product.dtype.numpy())

    def values(self, name: str) -> npt.NDArray[np.generic]:
        """An initializer's numbers; a large one is mapped from its file."""
        tensor = self.model.graph.initializers[name].const_value
        assert tensor is not None, name
        if isinstance(tensor, ir.ExternalTensor):
            dtype = tensor.dtype.numpy().newbyteorder("<")
            return np.memmap(tensor.path, dtype, "r", tensor.offset or 0, tuple(tensor.shape.numpy()))
        return tensor.numpy()

    def columns(self, product: Product, *, whole: bool = False) -> Iterator[tuple[slice, Matrix]]:
        """A product's weight [K, N] as slices of columns, each small enough to hold; or as one."""
        weight = self.values(product.weight)
        step = product.outputs if whole else max(64, _SLICE_BYTES // (4 * product.inputs))
        for start in range(0, product.outputs, step):
            part = slice(start, min(start + step, product.outputs))
            yield part, np.ascontiguousarray(weight[:, part], np.float32)

    def _find_products(self) -> Iterator[Product]:
        initializers = self.model.graph.initializers
        for node in self.model.graph:
            weight = node.inputs[1] if node.op_type == "MatMul" else None
            if weight is None or weight.name is None or weight.name not in initializers:
                continue
            if not weight.name.endswith(_WEIGHT):
                continue
            if weight.dtype is None or weight.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                raise QuantizationError(
                    f"the weight {weight.name} of {self.path} is {weight.dtype}, not float"
                )
            assert weight.shape is not None
            inputs, outputs = weight.shape.numpy()
            name = f"{self.part}.{weight.name.removesuffix(_WEIGHT)}"
            yield Product(name, weight.name, node, inputs, outputs, weight.dtype)


def shared_inputs(products: Sequence[Product]) -> list[tuple[Product, ...]]:
    """Products of one input together, in the graph's order."""
    groups: dict[ir.Value, list[Product]] = {}
    for product in products:
        groups.setdefault(product.activation, []).append(product)
    return [tuple(group) for group in groups.values()]
