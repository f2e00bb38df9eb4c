"""Writes checkpoints of random weights: 2b's widths with four layers, and the nano's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from neo_edge.checkpoint import INDEX_FILE, expected_tensors
from neo_edge.config import parse_config

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
SHARD_BYTES = 1 << 30

WIDTHS_2B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
NANO: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "vocab_size": 1024,
    "tie_word_embeddings": True,
}
VISION_HIDDEN = {2048: 1024, 192: 256}  # by the decoder's width


def write_checkpoint(folder: Path, llm_config: dict[str, Any], seed: int = 0) -> None:
    """A bfloat16 checkpoint in shards, like a published one, of normally distributed weights.

    Args:
        folder: is made.
        llm_config: fields that differ from the tiny golden checkpoint's config.
        seed: of the weights.
    """
    raw = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    raw["llm_config"] |= llm_config
    raw["tie_word_embeddings"] = llm_config["tie_word_embeddings"]
    width = llm_config["hidden_size"]
    raw["vision_config"] |= {"hidden_size": VISION_HIDDEN[width], "llm_hidden_size": width}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in expected_tensors(parse_config(raw)).items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) >= SHARD_BYTES:
            shards.append({})
        shards[-1][name] = _random(name, shape, generator)
    files = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file)
        files.update(dict.fromkeys(shard, file))
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": files}), encoding="utf-8")


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    fan_in = torch.Size(shape[1:]).numel()
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, fan_in**-0.5, generator=generator)
