"""Writes `.safetensors` shards and their index, numbers streamed in, without the safetensors package."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neo_edge.checkpoint import INDEX_FILE, SINGLE_FILE

SHARD_BYTES = 5_000_000_000  # the Hugging Face libraries' own limit
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

Blocks = Callable[[str, tuple[int, ...]], Iterable[npt.NDArray[np.generic]]]
"""Name and shape of a tensor -> its numbers in order, a block at a time, as they shall stand in the file."""


def write_shards(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    blocks: Blocks,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], object] | None = None,
) -> list[Path]:
    """Writes all tensors, in their order, and flushes them to the disk; memory holds one block.

    Args:
        directory: exists.
        shapes: of every tensor.
        dtype: of all of them, as the format calls it: F32, F16 or BF16.
        blocks: gives each tensor's numbers.
        shard_bytes: a shard ends before the tensor that would take it beyond this.
        on_bytes: called with the number of bytes just written.

    Returns:
        The weight files; one alone has no index.
    """
    shards = _split(shapes, dtype, shard_bytes)
    files = [
        directory
        / (SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        for number in range(1, len(shards) + 1)
    ]
    for path, names in zip(files, shards, strict=True):
        with path.open("wb") as file:
            file.write(_header({name: shapes[name] for name in names}, dtype))
            for name in names:
                for block in blocks(name, shapes[name]):
                    file.write(np.ascontiguousarray(block).data)
                    if on_bytes is not None:
                        on_bytes(block.nbytes)
            file.flush()
            os.fsync(file.fileno())
    if len(shards) > 1:
        weight_map = {name: path.name for path, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total_bytes(shapes, dtype)}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def total_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> int:
    """What the tensors take in files, headers left out."""
    return sum(map(math.prod, shapes.values())) * ITEM_BYTES[dtype]


def _split(shapes: Mapping[str, tuple[int, ...]], dtype: str, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned, as the safetensors library has it
    return len(text).to_bytes(8, "little") + text
