"""Conversations in upstream's training format, one JSON object a line.

    {"image": "kitchen.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                                              {"from": "gpt", "value": "A kitchen."}]}

`image` is one path, several in a list, or missing; `video` may stand in its place. Paths are relative to the file.
The first entry may be `{"from": "system", ...}`. Other fields, such as `id`, are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

from neo_edge.errors import CalibrationDataError
from neo_edge.json_file import parse_line, read_lines
from neo_edge.prompt import IMAGE_PLACE
from neo_edge_calibration.sources.conversation import Conversation, PromptSource, Turn

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def training_source(path: Path, seed: int) -> PromptSource:
    """The conversations of a file, in an order that the seed decides; all lines are checked now.

    Raises:
        CalibrationDataError: the file cannot be read or is empty, or a line is no conversation; the message has the
            line's number. A picture that cannot be read is found when its conversation is made.
    """
    makers = [
        _maker(line, f"{path.name}, line {number}", path.parent)
        for number, line in read_lines(path, CalibrationDataError)
    ]
    if not makers:
        raise CalibrationDataError(f"{path} holds no conversations: write one JSON object a line")
    Random(f"{seed}/jsonl").shuffle(makers)
    return PromptSource(f"conversations of {path.name}", makers, len(makers))


def _maker(line: str, where: str, folder: Path) -> partial[Conversation]:
    try:
        raw = parse_line(line)
    except ValueError as error:
        raise CalibrationDataError(
            f"{where}: not JSON ({error}): write one whole JSON object a line"
        ) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("conversations"), list):
        raise CalibrationDataError(
            f'{where}: an object with "conversations", a list, is needed, and perhaps "image" or "video"'
        )
    system, entries = _entries(raw["conversations"], where)
    images, video = _images(raw, where), raw.get("video")
    if video is not None and (images or not isinstance(video, str) or not video):
        raise CalibrationDataError(f'{where}: "video" is one path, in the place of "image"')
    shares = _shares([question for question, _ in entries], len(images), where)
    paths = [folder / name for name in images]
    turns: list[Turn] = []
    for (question, answer), (start, end) in zip(entries, shares, strict=True):
        videos = (folder / video,) if video and not turns else ()
        turns.append(Turn(question, answer, tuple(paths[start:end]), videos))
    return partial(Conversation, tuple(turns), where, system)


def _entries(raw: Sequence[object], where: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The system prompt, and questions with their answers."""
    spoken = [_entry(item, where) for item in raw]
    system = spoken.pop(0)[1] if spoken and spoken[0][0] == "system" else None
    roles = [role for role, _ in spoken]
    if not roles or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise CalibrationDataError(f"{where}: human and gpt must speak in turns, human first; found {roles}")
    texts: list[str | None] = [text for _, text in spoken]
    if len(texts) % 2:
        texts.append(None)
    return system, [(str(question), answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)]


def _entry(raw: object, where: str) -> tuple[str, str]:
    if isinstance(raw, dict):
        role, text = raw.get("from"), raw.get("value")
        if isinstance(role, str) and role in _ROLES and isinstance(text, str):
            return _ROLES[role], text
    raise CalibrationDataError(
        f'{where}: each entry of "conversations" is {{"from": "human" or "gpt", "value": text}}; found '
        f"{json.dumps(raw, ensure_ascii=False)[:80]}"
    )


def _images(raw: Mapping[str, object], where: str) -> list[str]:
    value = raw.get("image")
    listed: Sequence[object] = [] if value is None else value if isinstance(value, list) else [value]
    names = [name for name in listed if isinstance(name, str) and name]
    if len(names) != len(listed):
        raise CalibrationDataError(f'{where}: "image" is a path, or a list of them')
    return names


def _shares(questions: Sequence[str], images: int, where: str) -> list[tuple[int, int]]:
    """Which images each question brings: as many as it has places; without any place, the first brings all."""
    counts = [question.count(IMAGE_PLACE) for question in questions]
    if not sum(counts):
        counts[0] = images
    elif images and sum(counts) != images:
        raise CalibrationDataError(
            f"{where}: {sum(counts)} times {IMAGE_PLACE} for {images} images: write one for each, or none"
        )
    elif not images:
        counts = [0] * len(counts)
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return list(zip([0, *ends[:-1]], ends, strict=True))
