"""What quality is measured on: scenes that nothing was made from, or the user's own questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neo_edge.errors import InputError
from neo_edge_calibration.evaluation import scene_questions
from neo_edge_calibration.jsonl import read_questions
from neo_edge_calibration.question import Questions
from neo_edge_calibration.scenes import FAMILIES

SCENES = "nano"
DEFAULT_COUNT = 400  # scenes a family; the fewest that can show a drop below one point are 381


@dataclass(frozen=True)
class QualityData:
    """Questions and where they are from."""

    source: str  # for the report
    questions: Questions  # each is made when its turn comes, in the process that asks it


def scene_data(
    count: int = DEFAULT_COUNT, seed: int = 0, families: Sequence[str] = tuple(FAMILIES)
) -> QualityData:
    """Scenes for the nano checkpoint.

    They are drawn from the seed `quality SEED`, a text. `neo-edge eval` draws from plain numbers, training from
    `train` and calibration from `calibration-SEED`, so that no number of yours can meet a scene that was used before.

    Args:
        count: scenes a family.
        seed: draws others.
        families: of `neo_edge_calibration.scenes.FAMILIES`.

    Raises:
        InputError: `count` is below 1, or there is no such family.
    """
    if count < 1:
        raise InputError(f"count is {count}; measure with at least one scene a family")
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise InputError(f"there is no family {', '.join(unknown) or 'given'}: use {', '.join(FAMILIES)}")
    return QualityData(
        _source(count, families, seed),
        scene_questions(families, f"quality {seed}", count),
    )


def file_data(path: Path) -> QualityData:
    """Questions of a JSONL file, in the format that `neo-edge eval --data` takes.

    Raises:
        InputError: as `neo_edge_calibration.jsonl.read_questions`.
    """
    return QualityData(path.name, read_questions(path))


def _source(count: int, families: Sequence[str], seed: int) -> str:
    scenes = "1 scene" if count == 1 else f"{count} scenes"
    kinds = families[0] if len(families) == 1 else f"each of {len(families)} families"
    return f"{scenes} of {kinds}, seed {seed}"
