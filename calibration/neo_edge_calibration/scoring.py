"""Whether an answer is right.

Exact answers for words, numbers and choices; a box counts from an IoU of 0.5 on, the usual bar of grounding
benchmarks; a time may be one frame off, since nothing between two frames is seen.
"""

from __future__ import annotations

import re
from itertools import pairwise

from neo_edge_calibration.question import Question
from neo_edge_runtime.answer_data import final_answer, number_lists

MIN_IOU = 0.5
Box = tuple[float, float, float, float]

_NUMBER = r"-?\d+(?:\.\d+)?"
_TIME = re.compile(r"(\d+):(\d{2}(?:\.\d+)?)")
_LETTER = re.compile(r"\(?([A-Za-z])(?:[).:]|$)")


def is_right(question: Question, text: str) -> bool:
    """Scores a model's text: what stands behind its last `Answer:`, or all of it when there is none."""
    final = final_answer(text)
    if question.kind == "box":
        found, wanted = first_box(text), first_box(question.answer)
        return found is not None and wanted is not None and iou(found, wanted) >= MIN_IOU
    if question.kind == "time":
        found_s, wanted_s = seconds(final), seconds(question.answer)
        return (
            found_s is not None and wanted_s is not None and abs(found_s - wanted_s) <= frame_gap_s(question)
        )
    if question.kind == "number":
        return _number(final) is not None and _number(final) == _number(question.answer)
    if question.kind == "choice":
        return _option(question, final) == _option(question, question.answer) is not None
    return _plain(final) == _plain(question.answer)


def all_boxes(text: str) -> list[Box]:
    """Every `[x1, y1, x2, y2]` of a text."""
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in number_lists(text, 4)]


def first_box(text: str) -> Box | None:
    """The first `[x1, y1, x2, y2]` of a text."""
    found = all_boxes(text)
    return found[0] if found else None


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 for boxes without area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = _area(first) + _area(second) - overlap
    return overlap / union if union > 0 else 0.0


def seconds(text: str) -> float | None:
    """The first `MM:SS.ss` of a text, in seconds."""
    found = _TIME.search(text)
    return None if found is None else 60 * int(found[1]) + float(found[2])


def frame_gap_s(question: Question) -> float:
    """Seconds between two frames, the longest such gap; timestamps carry hundredths."""
    times = question.times_s or ()
    return max((late - early for early, late in pairwise(times)), default=0.0) + 0.005


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _number(text: str) -> float | None:
    found = re.fullmatch(rf"({_NUMBER})\.?", text.strip())
    return None if found is None else float(found[1])


def _option(question: Question, text: str) -> int | None:
    """Index of the option that a text names, by its words or by its letter."""
    plain = [_plain(choice) for choice in question.choices]
    if _plain(text) in plain:
        return plain.index(_plain(text))
    letter = _LETTER.match(text.strip())
    index = ord(letter[1].upper()) - ord("A") if letter else -1
    return index if 0 <= index < len(plain) else None


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".").split())
