"""Questions of the user's own, one JSON object a line.

    {"question": "How many cups?", "kind": "number", "answer": "3", "images": ["kitchen.jpg"]}
    {"question": "Where is the cup?", "kind": "choice", "choices": ["left", "right"], "answer": "B", "images": [...]}

`kind` is choice, number, box, text or time (`MM:SS.ss`); for a video `times_s` gives a time to each image. Optional:
`family` (the group it is scored in, else its kind), `duration_s` and `fps`. Pictures are found relative to the file.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from neo_edge.errors import ImageError, InputError
from neo_edge.json_file import parse_line, read_lines
from neo_edge.shown import shown
from neo_edge_calibration.question import Kind, Question, Questions
from neo_edge_calibration.scoring import is_right
from neo_edge_runtime.image_input import check_head, load_image
from neo_edge_runtime.prompt_line import check_places

KINDS = ("choice", "number", "text", "box", "time")
# The instruction that NEO-ov's evaluation puts behind multiple-choice questions.
CHOICE_INSTRUCTION = "\nAnswer with the option's letter from the given choices directly."
_ENDLESS = 1e9
_FIELDS = {"question", "kind", "answer", "images", "choices", "family", "times_s", "duration_s", "fps"}


def read_questions(path: Path) -> Questions:
    """The questions of a JSONL file; all lines are checked now, pictures are decoded as they are needed.

    Raises:
        InputError: the file cannot be read, or a line is no question; the message has the line's number.
        ImageError: a picture is missing or none; a broken one is found when its question is made.
    """
    lines = read_lines(path, InputError)
    if not lines:
        raise InputError(f"{path} holds no questions: write one JSON object a line")
    return Questions([_maker(line, f"{path}, line {number}", path.parent) for number, line in lines])


def _maker(line: str, where: str, folder: Path) -> partial[Question]:
    try:
        raw = parse_line(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}): write one whole JSON object a line") from error
    if not isinstance(raw, dict) or not {"question", "kind", "answer"} <= raw.keys() <= _FIELDS:
        found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise InputError(
            f"{where}: found {found}; an object with question, kind and answer is needed, and may have "
            f"{', '.join(sorted(_FIELDS - {'question', 'kind', 'answer'}))}"
        )
    kind, choices = raw["kind"], _strings(raw, "choices", where)
    if kind not in KINDS:
        raise InputError(f"{where}: kind is {shown(kind)}; use one of {', '.join(KINDS)}")
    if (kind == "choice") != bool(choices) or len(choices) > len(string.ascii_uppercase):
        raise InputError(
            f"{where}: a choice needs 1 to 26 choices, and only a choice has them; found {len(choices)}"
        )
    times = raw.get("times_s")
    images = _strings(raw, "images", where)
    if times is not None and not (_numbers(times) and len(times) == len(images)):
        raise InputError(
            f"{where}: times_s must be one number of seconds for each of the {len(images)} images"
        )
    if kind == "time" and times is None:
        raise InputError(f"{where}: a question about a time needs times_s")
    for field in ("question", "answer", "family"):
        if not isinstance(raw.get(field, ""), str):
            raise InputError(f"{where}: {field} is {shown(raw[field])}; write it as text")
    options = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
    )
    paths = [folder / name for name in images]
    _check_pictures(paths, where)
    question = Question(
        family=str(raw.get("family", kind)),
        kind=cast("Kind", kind),
        prompt=raw["question"] + (options + CHOICE_INSTRUCTION if options else ""),
        answer=raw["answer"],
        images=(),
        times_s=None if times is None else tuple(float(time) for time in times),
        duration_s=_optional_number(raw, "duration_s", where),
        fps=_optional_number(raw, "fps", where),
        choices=choices,
    )
    _check_prompt(question, len(paths), where)
    return partial(_with_pictures, question, paths, where)


def _check_pictures(paths: Sequence[Path], where: str) -> None:
    """So that a wrong name does not end an evaluation that runs for hours."""
    for path in paths:
        try:
            check_head(path)
        except ImageError as error:
            raise ImageError(f"{where}: {error}") from error


def _check_prompt(question: Question, images: int, where: str) -> None:
    """Raises what asking would raise, hours later."""
    check_places(
        question.prompt,
        images,
        times_s=question.times_s,
        duration_s=question.duration_s,
        fps=question.fps,
        where=where,
    )
    if not is_right(question, question.answer):
        raise InputError(
            f"{where}: the answer {shown(question.answer)} is no {question.kind}, so no reply could ever be right: "
            "write a choice's letter, a number, [[x1, y1, x2, y2]] or MM:SS.ss, as the kind says"
        )


def _with_pictures(question: Question, paths: Sequence[Path], where: str) -> Question:
    try:
        return replace(question, images=tuple(load_image(path) for path in paths))
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from error


def _strings(raw: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    value = raw.get(field, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {field} is {shown(value)}; write a list of texts")
    return tuple(value)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(i, int | float) and not isinstance(i, bool) and abs(i) < _ENDLESS for i in value
    )


def _optional_number(raw: dict[str, Any], field: str, where: str) -> float | None:
    value = raw.get(field)
    if value is not None and not _numbers([value]):
        raise InputError(f"{where}: {field} is {shown(value)}; write a number")
    return None if value is None else float(value)
