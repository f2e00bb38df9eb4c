"""Writes seeded random checkpoints of any shape, in the format of a published one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from neo_edge.checkpoint import LM_HEAD, expected_tensors
from neo_edge.config import parse_config

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
Tensors = dict[str, np.ndarray]


def golden_tensors() -> Tensors:
    """The tiny golden checkpoint's weights."""
    return load_file(GOLDEN / "model.safetensors")


def write_checkpoint(
    folder: Path, tensors: Tensors | None = None, *, tied: bool = False, **sizes: int
) -> Path:
    """A checkpoint of the golden one's config with other sizes (`llm_config` fields) or other weights."""
    config = json.loads((GOLDEN / "config.json").read_text())
    config["llm_config"] |= {**sizes, "tie_word_embeddings": tied}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is None:
        rng = np.random.default_rng(3)
        tensors = {
            name: _random(rng, name, shape) for name, shape in expected_tensors(parse_config(config)).items()
        }
    if tied:
        tensors = {name: array for name, array in tensors.items() if name != LM_HEAD}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in name:
        return (1 + 0.1 * rng.normal(size=shape)).astype(np.float32)
    return (rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)).astype(
        np.float32
    )
