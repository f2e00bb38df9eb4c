"""What `--data` may name."""

from __future__ import annotations

from pathlib import Path

from neo_edge.errors import CalibrationDataError
from neo_edge_calibration.sources.conversation import PromptSource
from neo_edge_calibration.sources.folders import folder_source
from neo_edge_calibration.sources.scenes import scene_source
from neo_edge_calibration.sources.training_jsonl import training_source

SCENES = "nano"


def named_source(text: str, seed: int) -> PromptSource:
    """`nano` for generated scenes, a folder of pictures or videos, or a JSONL file of conversations.

    Raises:
        CalibrationDataError: it is none of them, or holds nothing to calibrate with.
    """
    if text == SCENES:
        return scene_source(seed)
    path = Path(text)
    if path.is_dir():
        return folder_source(path, seed)
    if path.is_file():
        return training_source(path, seed)
    raise CalibrationDataError(
        f"{text!r} does not exist: give a folder of pictures or videos, a .jsonl file of conversations, or `{SCENES}`"
    )
