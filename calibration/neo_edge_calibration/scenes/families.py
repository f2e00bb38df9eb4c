"""The table of question families and the seed rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from neo_edge_calibration.question import Question
from neo_edge_calibration.scenes import several, single

FAMILIES: Mapping[str, Callable[[Random], Question]] = MappingProxyType(
    {
        "colour": single.colour,
        "shape": single.shape,
        "count": single.count,
        "left_right": single.left_right,
        "above_below": single.above_below,
        "nearest": single.nearest,
        "box": single.box,
        "exists": single.exists,
        "largest": single.largest,
        "differs": several.differs,
        "more": several.more,
        "motion": several.motion,
        "order": several.order,
        "when": several.when,
        "robot_turn": single.robot_turn,
    }
)


def make_question(family: str, seed: int | str, index: int) -> Question:
    """The question of a family that belongs to a seed and an index; equal arguments give equal pixels."""
    return FAMILIES[family](Random(f"{seed}/{family}/{index}"))
