"""What is measured beside llama.cpp: a plain Qwen3 like NEO-ov's decoder, and recipes that need no calibration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qwen3_gguf import Widths

from neo_edge.config import DecoderConfig
from neo_edge_export.quantization.recipe import LayerRule, Recipe


def plain_widths(config: DecoderConfig) -> Widths:
    """A plain Qwen3 like NEO-ov's decoder."""
    return Widths(
        config.hidden_size,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.intermediate_size,
        config.vocab_size,
        config.num_layers,
    )


def plainly_rounded(recipe: Recipe, name: str, layers: Iterable[LayerRule]) -> dict[str, object]:
    """A recipe as a file has it, without what needs calibration: speed does not depend on the numbers."""
    plain = [replace(rule, rounding="nearest") for rule in layers]
    return {
        "name": name,
        "profile": recipe.profile,
        "scale_type": recipe.scale_type,
        "layers": [{key: value for key, value in vars(rule).items() if value is not None} for rule in plain],
    }
