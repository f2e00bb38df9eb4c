"""Shapes of NEO-ov models to make random checkpoints of, as the `config.json` that upstream would have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from neo_edge.errors import InputError
from neo_edge.shown import shown

WeightDtype = Literal["bfloat16", "float16", "float32"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)


@dataclass(frozen=True)
class Preset:
    """What sizes differ in; everything else is the family's."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    pre_buffer_layers: int  # the first ones (`extra_num_layers`)
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = 151936  # Qwen3's, padded
    vision_hidden_size: int = 1024
    img_context_id: int = 151669  # `<IMG_CONTEXT>`; `<img>` and `</img>` follow
    eos_id: int = 151645  # `<|im_end|>`


# 2b and 9b: Qwen3-1.7B and Qwen3-8B with NEO1.5's depths (scripts/2B_1PT.sh, 8B_1PT.sh, arXiv 2605.28820).
PRESETS: dict[str, Preset] = {
    "tiny": Preset(64, 160, 4, 1, 4, 2, 16, 320, vision_hidden_size=32, img_context_id=317, eos_id=316),
    "500m": Preset(1024, 3072, 24, 8, 16, 8, 64),
    "2b": Preset(2048, 6144, 40, 12, 16, 8, 128),
    "9b": Preset(4096, 12288, 42, 6, 32, 8, 128),
}


def preset_config(name: str, *, layers: int | None = None, dtype: WeightDtype = "bfloat16") -> dict[str, Any]:
    """The fields of `config.json`, in upstream's layout.

    Args:
        name: one of `PRESETS`.
        layers: decoder layers; None: the preset's.
        dtype: of the weights.

    Raises:
        InputError: there is no such preset, or no such number of layers.
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}: use one of {', '.join(PRESETS)}")
    if layers is not None and layers < 1:
        raise InputError(f"layers is {shown(layers)}; a decoder has 1 or more")
    preset = PRESETS[name]
    count = preset.num_layers if layers is None else layers
    return {
        "architectures": ["NEOChatModel"],
        "model_type": "neo_chat",
        "template": "neo1_0",
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "img_context_token_id": preset.img_context_id,
        "img_start_token_id": preset.img_context_id + 1,
        "img_end_token_id": preset.img_context_id + 2,
        "vision_config": {
            "architectures": ["NEOVisionModel"],
            "model_type": "neo_vision",
            "num_channels": 3,
            "patch_size": 16,
            "hidden_size": preset.vision_hidden_size,
            "llm_hidden_size": preset.hidden_size,
            "downsample_ratio": 0.5,
            "rope_theta_vision": 10000.0,
            "max_position_embeddings_vision": 10000,
            "min_pixels": 65536,
            "max_pixels": 16777216,
        },
        "llm_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": preset.vocab_size,
            "hidden_size": preset.hidden_size,
            "intermediate_size": preset.intermediate_size,
            "num_hidden_layers": count,
            "extra_num_layers": min(preset.pre_buffer_layers, count),
            "num_attention_heads": preset.num_heads,
            "num_key_value_heads": preset.num_kv_heads,
            "head_dim": preset.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "rope_theta_hw": 10000.0,
            "max_position_embeddings_hw": 10000,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "eos_token_id": preset.eos_id,
        },
    }
