"""Writes a checkpoint of real shape and names with random weights: to measure and to test, not to answer."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neo_edge.byte_size import show_bytes
from neo_edge.checkpoint import EMBEDDING, LM_HEAD, Checkpoint, expected_tensors, open_checkpoint
from neo_edge.checkpoint_presets import WeightDtype
from neo_edge.config import ModelConfig, parse_config
from neo_edge.errors import CheckpointError
from neo_edge.safetensors_shards import SHARD_BYTES, total_bytes, write_shards

_STORED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_BLOCK_ITEMS = 1 << 16  # numbers that are drawn at once; what fits a cache is drawn and rounded fastest
_RESERVE_BYTES = 1 << 20  # headers, index and config


@dataclass(frozen=True)
class RandomWeights:
    """What numbers a tensor gets: its own stream for each name, so a slice of layers repeats the first ones."""

    config: ModelConfig
    dtype: WeightDtype
    seed: int = 0

    def blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.generic]]:
        """The tensor's numbers in order, as they stand in a file (bfloat16 as its 16 bits)."""
        mean, spread = self.distribution(name, shape)
        generator = np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))
        left = math.prod(shape)
        while left:
            values = generator.standard_normal(min(left, _BLOCK_ITEMS), np.float32)
            values *= np.float32(spread)
            values += np.float32(mean)
            left -= len(values)
            yield _stored(values, self.dtype)

    def distribution(self, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Mean and standard deviation of a tensor's numbers.

        Products keep the size of what goes in (1 / sqrt(inputs)); what a layer adds to the residual stream is
        divided by sqrt(2 layers), as GPT-2 does, so that the stream stays near 1 at any depth. Embeddings and
        visual tokens are equally large, and logits are near 1.
        """
        width = self.config.decoder.hidden_size
        if name.endswith(".bias"):
            return 0.0, 0.02
        if "norm" in name.rpartition(".")[0].rpartition(".")[2]:
            return 1.0, 0.1
        if name in (EMBEDDING, LM_HEAD):
            return 0.0, width**-0.5
        spread = math.prod(shape[1:]) ** -0.5
        if name.endswith(".dense_embedding.weight"):
            return 0.0, spread * width**-0.5
        if name.endswith((".o_proj.weight", ".down_proj.weight")):
            return 0.0, spread * (2 * self.config.decoder.num_layers) ** -0.5
        return 0.0, spread


def write_random_checkpoint(
    target: Path,
    raw_config: dict[str, Any],
    *,
    dtype: WeightDtype = "bfloat16",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], object] | None = None,
) -> Checkpoint:
    """Writes config.json and weights, whole or not at all; there is no tokenizer with them.

    Args:
        target: a directory that does not exist yet.
        raw_config: the fields of config.json, such as `preset_config` gives.
        dtype: of all weights.
        seed: of the random numbers; the same seed gives the same files.
        shard_bytes: largest shard, unless one tensor is larger.
        on_bytes: called with the number of bytes just written.

    Raises:
        CheckpointError: the target exists or cannot be written, or its disk has too little room.
        ConfigError: the config describes an impossible model.
    """
    config = parse_config(raw_config)
    shapes = expected_tensors(config)
    weights = RandomWeights(config, dtype, seed)
    target = Path(os.path.abspath(target))
    _require_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_space(target, total_bytes(shapes, _STORED[dtype]) + _RESERVE_BYTES)
        # Hidden, and without config.json until the weights are whole: what a killed run leaves cannot be opened.
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            write_shards(
                staged, shapes, _STORED[dtype], weights.blocks, shard_bytes=shard_bytes, on_bytes=on_bytes
            )
            (staged / "config.json").write_text(json.dumps(raw_config, indent=2) + "\n", encoding="utf-8")
            open_checkpoint(staged)
            staged.chmod(0o755)
            _require_new(target)
            staged.rename(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint can be written at {target} ({error}); nothing was left there: free disk space, or choose "
            "another target"
        ) from error
    return open_checkpoint(target)


def _require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise CheckpointError(
            f"{target} exists already, and checkpoints are never overwritten: choose another"
        )


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise CheckpointError(
            f"the checkpoint takes {show_bytes(needed)} ({needed} bytes) and the disk of {target} has "
            f"{show_bytes(free)} free: free some, choose another disk, fewer layers or a smaller preset"
        )


def _stored(values: npt.NDArray[np.float32], dtype: WeightDtype) -> npt.NDArray[np.generic]:
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # to the nearest, halves to even
        bits >>= np.uint32(16)
        return bits.astype("<u2")
    return values.astype("<f2" if dtype == "float16" else "<f4", copy=False)
