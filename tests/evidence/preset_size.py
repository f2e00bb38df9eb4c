"""What a preset weighs, and the refusal to start where the disk cannot hold it."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

from neo_edge.byte_size import show_bytes
from neo_edge.checkpoint import expected_tensors
from neo_edge.checkpoint_presets import preset_config
from neo_edge.config import ModelConfig, parse_config

_ROOM = 1.05  # graphs, tables and the file system's own need


def preset_model(preset: str, layers: int | None) -> ModelConfig:
    """Its shape."""
    return parse_config(preset_config(preset, layers=layers))


def parameters(config: ModelConfig) -> int:
    """How many numbers its weights are."""
    return sum(map(math.prod, expected_tensors(config).values()))


def require_disk(folder: Path, size_bytes: float) -> None:
    """Makes the folder; ends the program with status 2 when that many bytes are not free there."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = size_bytes * _ROOM, shutil.disk_usage(folder).free
    if free < needed:
        print(
            f"error: {folder} has {show_bytes(free)} free and {show_bytes(needed)} are needed: choose another with "
            "--out, or a smaller --preset or --layers",
            file=sys.stderr,
        )
        raise SystemExit(2)
