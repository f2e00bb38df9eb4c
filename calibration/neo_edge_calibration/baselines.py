"""What guessing earns: the best answer that never looks, and a model that is shown another scene's pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from neo_edge.prompt import timestamp
from neo_edge_calibration.question import Question
from neo_edge_calibration.scoring import MIN_IOU, first_box, iou, is_right

BOX_CANDIDATES = 200  # boxes tried as the constant answer


def best_constant(questions: Sequence[Question]) -> float:
    """Accuracy of the best constant answer over one family.

    The constant is a text, or a place in the question: `the second option`, `the third frame`.
    """
    if not questions:
        return 0.0
    return max(_best_text(questions), _best_option(questions), _best_frame(questions)) / len(questions)


def with_pictures_of_others(questions: Sequence[Question]) -> list[Question]:
    """The same questions over the pictures of the next question that has as many; answers stay.

    A question whose number of pictures no other has is left out.
    """
    alike: defaultdict[tuple[int, bool], list[Question]] = defaultdict(list)
    for question in questions:
        alike[len(question.images), question.times_s is None].append(question)
    swapped = {
        id(question): replace(question, images=group[(index + 1) % len(group)].images)
        for group in alike.values()
        if len(group) > 1
        for index, question in enumerate(group)
    }
    return [swapped[id(question)] for question in questions if id(question) in swapped]


def _best_text(questions: Sequence[Question]) -> int:
    kind = questions[0].kind
    if kind == "box":
        boxes = [box for question in questions if (box := first_box(question.answer)) is not None]
        return max(
            (sum(iou(box, other) >= MIN_IOU for other in boxes) for box in boxes[:BOX_CANDIDATES]), default=0
        )
    if kind == "time":
        answers = sorted({question.answer for question in questions})
        return max(sum(is_right(question, answer) for question in questions) for answer in answers)
    return max(Counter(question.answer for question in questions).values())


def _best_option(questions: Sequence[Question]) -> int:
    longest = max(len(question.choices) for question in questions)
    return max(
        (
            sum(
                index < len(question.choices) and is_right(question, question.choices[index])
                for question in questions
            )
            for index in range(longest)
        ),
        default=0,
    )


def _best_frame(questions: Sequence[Question]) -> int:
    if questions[0].kind != "time":
        return 0
    longest = max(len(question.times_s or ()) for question in questions)
    return max(
        sum(
            index < len(question.times_s or ())
            and is_right(question, timestamp((question.times_s or ())[index]))
            for question in questions
        )
        for index in range(longest)
    )
