"""Prompts in a file, one JSON object a line.

    {"prompt": "How many cups?", "images": ["kitchen.jpg"]}
    {"prompt": "What happens?", "videos": ["clip.mp4"], "frame_sampling": {"mode": "count", "frames": 8}}
    {"prompt": "When does it fall?", "images": ["0.png", "1.png"], "times_s": [0, 0.5], "options": {"seed": 1}}

`prompt` is a question, or a list of token ids. Optional: `id`, a text or a whole number that the answer repeats;
`images` and `videos`, found relative to the file; `frame_sampling`, the fields of `FrameSampling` for the videos;
`times_s`, a time to each image, which makes them frames of a video; `duration_s` and `fps` of that video; `system`; and
`options`, the fields of `SamplingOptions` that differ from the command's.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neo_edge.errors import InputError
from neo_edge.options import SamplingOptions
from neo_edge_runtime.batch_request import Request
from neo_edge_runtime.prompt_line import PromptLine

_LINE_BYTES = 16 << 20  # a context of a million token ids has half of it
_DIGEST = 16  # hexadecimal digits; a line is told from its neighbours, not from an attacker's


@dataclass(frozen=True)
class NumberedRequest:
    """A request and the line that it stands in."""

    line: int  # from 1
    digest: str  # of the line's text, SHA-256
    id: str | int | None  # the line's own
    request: Request


class PromptFile:
    """A file of prompts, read line by line as often as needed; one line is in memory at a time."""

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        folder: Path,
        *,
        system: str | None,
        options: SamplingOptions,
        vocab_size: int | None = None,
    ) -> None:
        """Over an open file that can be read again from its start.

        Args:
            file: of lines in UTF-8.
            name: for messages.
            folder: where the pictures' names begin.
            system: system prompt of questions that have none of their own; None: the protocol's.
            options: sampling of the lines, but for their own `options`.
            vocab_size: token ids must be below it; None: any are taken.
        """
        self._file, self._name, self._folder = file, name, folder
        self._system, self._options, self._vocab_size = system, options, vocab_size

    def check(self) -> int:
        """Reads every line and looks at every picture's head; how many prompts there are.

        Raises:
            InputError: the file cannot be read or holds no prompts, or a line is none; the message has its number.
            PromptError: a line's prompt and pictures do not fit each other.
            ImageError: a picture is not there, or none.
        """
        count = sum(1 for _ in self)
        if not count:
            raise InputError(f"{self._name} holds no prompts: write one JSON object a line")
        return count

    def __iter__(self) -> Iterator[NumberedRequest]:
        """The prompts, in their order; raises as `check`. Pictures are read when they are asked about."""
        for number, text in self._lines():
            if not text.strip():
                continue
            line = PromptLine(f"{self._name}, line {number}", text)
            request = line.request(self._folder, self._system, self._options, self._vocab_size)
            digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
            yield NumberedRequest(number, digest, line.id, request)

    def _lines(self) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            self._file.seek(0)
            while data := self._file.readline(_LINE_BYTES + 1):
                number += 1
                if len(data) > _LINE_BYTES:
                    raise InputError(
                        f"{self._name}, line {number}: longer than {_LINE_BYTES >> 20} MiB: write one JSON object a "
                        "line"
                    )
                yield number, data.decode("utf-8-sig" if number == 1 else "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(f"{self._name}, line {max(number, 1)}", error) from error


@contextmanager
def open_prompts(
    path: Path, *, system: str | None, options: SamplingOptions, vocab_size: int | None = None
) -> Iterator[PromptFile]:
    """The prompts of a file, or of standard input.

    Args:
        path: a UTF-8 file; `-` is standard input, whose pictures are found relative to the working directory. What
            can be read once only, such as a pipe, is copied into a temporary file.
        system: as `PromptFile`.
        options: as `PromptFile`.
        vocab_size: as `PromptFile`.

    Raises:
        InputError: the file cannot be read.
    """
    folder = Path() if str(path) == "-" else path.parent
    with ExitStack() as stack:
        try:
            if str(path) == "-":
                file = stack.enter_context(_copied(_standard_input()))
            else:
                file = stack.enter_context(path.open("rb"))
                if not file.seekable():
                    file = stack.enter_context(_copied(file))
        except (OSError, ValueError) as error:
            raise _unreadable(str(path), error) from error
        yield PromptFile(file, str(path), folder, system=system, options=options, vocab_size=vocab_size)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed before the program started
        raise OSError("standard input is closed")
    return sys.stdin.buffer


@contextmanager
def _copied(source: BinaryIO) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy)
        yield copy


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(f"{name} cannot be read ({error}): give a UTF-8 file with one JSON object a line")
