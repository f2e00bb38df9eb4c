"""What a network is made of before TensorRT fuses it: its layers, their types, and which products are quantized.

An engine's own layers are known only to its inspector, which needs the engine loaded and so a GPU; where one was
there at build time, `engine_layers` in `plan_building.py` adds what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from neo_edge_export.tensorrt import builder_api as api

# A product's operand is followed through these to what it was read or quantized from.
_TRANSPARENT = {"SHUFFLE", "CAST", "IDENTITY", "UNSQUEEZE", "SQUEEZE"}
_MATRIX_PRODUCT, _DEQUANTIZE, _FUSED_ATTENTION = "MATRIX_MULTIPLY", "DEQUANTIZE", "ATTENTION_INPUT"


@dataclass(frozen=True)
class NetworkListing:
    """Counts over a parsed network."""

    layers: dict[str, int]  # by kind
    output_types: dict[str, int]  # layers by the type of what they give
    matrix_products: dict[str, int]  # "INT8 x INT8", "HALF x HALF": what both operands are stored as
    int8_products: int  # both operands INT8: run on the INT8 units
    attention_operators: int  # attention as one operator, fused for certain
    softmax_layers: int  # attention in plain operators, which TensorRT may or may not fuse

    def to_json(self) -> dict[str, object]:
        """For `layers.json`."""
        return dict(vars(self))


def list_network(network: api.INetworkDefinition) -> NetworkListing:
    """Counts the layers of a parsed network."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = Counter(layer.type.name for layer in layers)
    maker = {output.name: layer for layer in layers for output in _outputs(layer)}
    products = Counter(
        " x ".join(_stored_as(operand, maker) for operand in _inputs(layer)[:2])
        for layer in layers
        if layer.type.name == _MATRIX_PRODUCT
    )
    return NetworkListing(
        layers=dict(kinds.most_common()),
        output_types=dict(
            Counter(output.dtype.name for layer in layers for output in _outputs(layer)).most_common()
        ),
        matrix_products=dict(products.most_common()),
        int8_products=products["INT8 x INT8"],
        attention_operators=kinds[_FUSED_ATTENTION],
        softmax_layers=kinds["SOFTMAX"],
    )


def _stored_as(tensor: api.ITensor, maker: dict[str, api.ILayer]) -> str:
    """INT8 for what an INT8 tensor is dequantized to; otherwise the operand's own type."""
    own = tensor.dtype.name
    while (layer := maker.get(tensor.name)) is not None:
        inputs = _inputs(layer)
        if not inputs:
            return own
        tensor = inputs[0]
        if layer.type.name == _DEQUANTIZE:
            return tensor.dtype.name
        if layer.type.name not in _TRANSPARENT:
            return own
    return own


def _inputs(layer: api.ILayer) -> list[api.ITensor]:
    return list(_present(layer.get_input(index) for index in range(layer.num_inputs)))


def _outputs(layer: api.ILayer) -> list[api.ITensor]:
    return list(_present(layer.get_output(index) for index in range(layer.num_outputs)))


def _present(tensors: Iterator[api.ITensor | None]) -> Iterator[api.ITensor]:
    return (tensor for tensor in tensors if tensor is not None)
