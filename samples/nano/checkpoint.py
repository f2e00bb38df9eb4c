"""The nano model's shape, and its checkpoint in the format of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from training_families import MAX_PIXELS, MIN_PIXELS

LAYERS, PRE_BUFFER = 6, 2
HIDDEN, INTERMEDIATE = 192, 512
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 48
VISION_HIDDEN = 256
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def nano_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of the nano model."""
    end = tokenizer.token_to_id("<|im_end|>")
    return {
        "architectures": ["NEOChatModel"],
        "model_type": "neo_chat",
        "template": "neo1_0",
        "downsample_ratio": 0.5,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "img_context_token_id": tokenizer.token_to_id("<IMG_CONTEXT>"),
        "img_start_token_id": tokenizer.token_to_id("<img>"),
        "img_end_token_id": tokenizer.token_to_id("</img>"),
        "vision_config": {
            "architectures": ["NEOVisionModel"],
            "model_type": "neo_vision",
            "num_channels": 3,
            "patch_size": 16,
            "hidden_size": VISION_HIDDEN,
            "llm_hidden_size": HIDDEN,
            "downsample_ratio": 0.5,
            "rope_theta_vision": 1000.0,
            "max_position_embeddings_vision": 10000,
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
        },
        "llm_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "extra_num_layers": PRE_BUFFER,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "rope_theta_hw": 100.0,
            "max_position_embeddings_hw": 10000,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": end,
        },
    }


def write_checkpoint(
    folder: Path, config: dict[str, Any], tokenizer: Tokenizer, state: dict[str, Tensor]
) -> None:
    """Writes config.json, model.safetensors (float16), the tokenizer and the small files beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()}
    weights.pop("language_model.lm_head.weight")  # tied to the embedding
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    end, padding = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    small_files: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": {
            "do_sample": False,
            "eos_token_id": [end, padding],
            "pad_token_id": padding,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": config["llm_config"]["max_position_embeddings"],
        },
        "preprocessor_config.json": {
            "patch_size": 16,
            "downsample_ratio": 0.5,
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    }
    for name, content in small_files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
