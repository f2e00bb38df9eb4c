"""Prompts in a file, one JSON object a line.

    {"prompt": "How many cups?", "images": ["kitchen.jpg"]}
    {"prompt": "When does it fall?", "images": ["0.png", "1.png"], "times_s": [0, 0.5], "options": {"seed": 1}}

`prompt` is a question, or a list of token ids. Optional: `images`, found relative to the file; `times_s`, a time to
each image, which makes them frames of a video; `duration_s` and `fps` of that video; `system`; and `options`, the
fields of `SamplingOptions` that differ from the command's.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

from neo_edge.errors import ImageError, InputError
from neo_edge.options import SamplingOptions
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.image_input import check_head
from neo_edge_runtime.video import Frame

_FIELDS = ("prompt", "images", "times_s", "duration_s", "fps", "system", "options")
_ENDLESS = 1e38  # what is beyond is no number of seconds
_OPTIONS = tuple(field.name for field in fields(SamplingOptions))


@dataclass(frozen=True)
class NumberedRequest:
    """A request and the line that it stands in."""

    line: int  # from 1
    request: Request


def read_prompts(path: Path, *, system: str | None, options: SamplingOptions) -> list[NumberedRequest]:
    """The requests of a file; all lines are checked now, pictures are read when they are asked about.

    Args:
        path: a UTF-8 file; `-` is standard input, whose pictures are found relative to the working directory.
        system: system prompt of questions that have none of their own; None: the protocol's.
        options: sampling of the lines, but for their own `options`.

    Raises:
        InputError: the file cannot be read or holds no prompts, or a line is none; the message has its number.
        ImageError: a picture is not there, or none.
    """
    lines = _text(path).split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"{path} holds no prompts: write one JSON object a line")
    folder = Path() if str(path) == "-" else path.parent
    return [
        NumberedRequest(number, _Line(f"{path}, line {number}", line).request(folder, system, options))
        for number, line in numbered
    ]


class _Line:
    """One line's object, read field by field."""

    def __init__(self, where: str, text: str) -> None:
        self._where = where
        try:
            found: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"not JSON ({error}): write one object a line") from error
        if not isinstance(found, dict) or "prompt" not in found or not found.keys() <= set(_FIELDS):
            shown = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise self._wrong(
                f"found {shown}; an object with a prompt is needed, and may have {', '.join(_FIELDS[1:])}"
            )
        self._fields = cast("dict[str, object]", found)

    def request(self, folder: Path, system: str | None, options: SamplingOptions) -> Request:
        images = [folder / name for name in self._images()]
        for image in images:
            try:
                check_head(image)
            except ImageError as error:
                raise ImageError(f"{self._where}: {error}") from error
        times = self._times(len(images))
        own_system = self._fields.get("system")
        if not (own_system is None or isinstance(own_system, str)):
            raise self._wrong(f"system is {own_system!r}; write it as text")
        prompt = self._prompt()
        if not isinstance(prompt, str):
            system = None  # token ids hold theirs
        return Request(
            prompt,
            images if times is None else (),
            None if times is None else [Frame(*frame) for frame in zip(images, times, strict=True)],
            self._number("duration_s"),
            self._number("fps"),
            system if own_system is None else own_system,
            self._options(options),
            self._where,
        )

    def _prompt(self) -> str | list[int]:
        prompt = self._fields["prompt"]
        if isinstance(prompt, str):
            return prompt
        if isinstance(prompt, list) and all(type(token) is int for token in prompt):
            return cast("list[int]", prompt)
        raise self._wrong(f"prompt is {_shown(prompt)}; write a text, or a list of token ids")

    def _images(self) -> list[str]:
        images = self._fields.get("images", [])
        if isinstance(images, list) and all(isinstance(name, str) for name in images):
            return cast("list[str]", images)
        raise self._wrong(f"images is {_shown(images)}; write a list of file names")

    def _times(self, images: int) -> list[float] | None:
        times = self._fields.get("times_s")
        if times is None:
            return None
        if isinstance(times, list) and len(times) == images and all(map(_is_number, times)):
            return [float(one) for one in times]
        raise self._wrong(
            f"times_s is {_shown(times)}; write a number of seconds for each of the {images} images"
        )

    def _number(self, field: str) -> float | None:
        value = self._fields.get(field)
        if value is None:
            return None
        if _is_number(value):
            return float(cast("float", value))
        raise self._wrong(f"{field} is {_shown(value)}; write a number")

    def _options(self, options: SamplingOptions) -> SamplingOptions:
        own = self._fields.get("options", {})
        if not isinstance(own, dict) or not own.keys() <= set(_OPTIONS):
            shown = sorted(own) if isinstance(own, dict) else _shown(own)
            raise self._wrong(f"options has {shown}; write an object with some of {', '.join(_OPTIONS)}")
        try:
            return replace(options, **own)
        except (InputError, TypeError) as error:
            raise self._wrong(f"options: {error}") from error

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self._where}: {what}")


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): give a UTF-8 file with one JSON object a line"
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ENDLESS


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
