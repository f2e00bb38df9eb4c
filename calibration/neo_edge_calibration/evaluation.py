"""Asks a loaded model many questions and counts the right answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from neo_edge.options import SamplingOptions
from neo_edge_calibration.baselines import best_constant
from neo_edge_calibration.question import Question, Questions
from neo_edge_calibration.scenes import make_question
from neo_edge_calibration.scoring import is_right
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.model import Model
from neo_edge_runtime.video import Frame


@dataclass(frozen=True)
class FamilyScore:
    """How one family of questions went."""

    accuracy: float  # share of right answers
    count: int  # questions asked
    best_constant: float  # accuracy of the best answer that never looks


def scene_questions(families: Sequence[str], seed: int | str, count: int) -> Questions:
    """`count` questions of every family, from scenes that the seed alone decides."""
    return Questions(
        [partial(make_question, family, seed, index) for family in families for index in range(count)]
    )


def evaluate(
    model: Model, questions: Iterable[Question], options: SamplingOptions | None = None
) -> dict[str, FamilyScore]:
    """Accuracy of each family.

    Args:
        model: a loaded bundle.
        questions: read once; each is asked in a conversation of its own.
        options: sampling; None: the model's protocol.

    Raises:
        NeoEdgeError: a question cannot be asked; see `Model.generate`.
    """
    right: defaultdict[str, int] = defaultdict(int)
    asked: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        right[question.family] += is_right(question, ask(model, question, options))
        asked[question.family].append(replace(question, images=()))  # the pictures may go
    return {
        family: FamilyScore(right[family] / len(group), len(group), best_constant(group))
        for family, group in asked.items()
    }


def ask(model: Model, question: Question, options: SamplingOptions | None = None) -> str:
    """The model's answer to one question."""
    asked = as_request(question)
    return model.generate(
        asked.prompt,
        asked.images,
        asked.frames,
        video_duration_s=asked.video_duration_s,
        fps=asked.fps,
        options=options,
    ).text


def as_request(question: Question) -> Request:
    """What a model is asked; frames where the question has times."""
    if question.times_s is None:
        return Request(question.prompt, question.images)
    frames = [Frame(image, time_s) for image, time_s in zip(question.images, question.times_s, strict=True)]
    return Request(question.prompt, frames=frames, video_duration_s=question.duration_s, fps=question.fps)
