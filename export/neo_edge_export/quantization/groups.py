"""Which products share an input: the names that calibration gives those activations."""

from __future__ import annotations

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization.float_graph import Product

_OF_LAYER = {
    "self_attn.q_proj": "attention_input",
    "self_attn.q_proj_hw": "attention_input",
    "self_attn.k_proj": "attention_input",
    "self_attn.k_proj_hw": "attention_input",
    "self_attn.v_proj": "attention_input",
    "self_attn.o_proj": "attention_output",
    "mlp.gate_proj": "mlp_input",
    "mlp.up_proj": "mlp_input",
    "mlp.down_proj": "mlp_output",
}
_OTHERS = {
    "decoder.lm_head": "head_input",
    "vision.patch_embedding": "vision.patches",
    "vision.dense_embedding": "vision.merged",
}


def activation_group(product: Product) -> str:
    """The name in `neo_edge_calibration.statistics` of a product's input.

    Raises:
        QuantizationError: `neo-edge export` writes no such product.
    """
    if product.name in _OTHERS:
        return _OTHERS[product.name]
    layer, _, rest = product.name.partition(".")[2].partition(".")[2].partition(".")
    if rest not in _OF_LAYER:
        raise QuantizationError(
            f"the graph has a product {product.name!r}, which neo-edge export does not write: export the bundle again"
        )
    return f"layers.{layer}.{_OF_LAYER[rest]}"
