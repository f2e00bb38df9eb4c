"""Which products share an input: the names that calibration gives those activations."""

from __future__ import annotations

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
    """The name in `neo_edge_calibration.statistics` of a product's input."""
    if product.name in _OTHERS:
        return _OTHERS[product.name]
    _, layers, index, rest = product.name.split(".", 3)
    return f"{layers}.{index}.{_OF_LAYER[rest]}"
