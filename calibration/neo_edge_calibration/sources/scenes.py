"""The scene generator as a source, with seeds that neither training nor evaluation draws from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count

from neo_edge_calibration.scenes import FAMILIES, make_question
from neo_edge_calibration.sources.conversation import Conversation, PromptSource, conversation_of


def scene_source(seed: int) -> PromptSource:
    """Endless questions, the families in turn.

    Evaluation draws from plain numbers and training from `train`, so neither ever shows these scenes.
    """
    return PromptSource("generated scenes", _makers(f"calibration-{seed}"), None)


def _makers(seed: str) -> Iterator[partial[Conversation]]:
    return (partial(_scene, family, seed, index) for index in count() for family in FAMILIES)


def _scene(family: str, seed: str, index: int) -> Conversation:
    return conversation_of(make_question(family, seed, index), f"{family} {index}")
