"""A question with its pictures and its right answer: what evaluation asks and calibration feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Kind = Literal["choice", "number", "text", "box", "time"]


@dataclass(frozen=True)
class Region:
    """Something that a picture shows."""

    name: str  # `red ball`
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in thousandths of the picture


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    `images` are separate pictures, or the frames of a video where `times_s` is given.
    """

    family: str  # questions are scored in groups of this name
    kind: Kind  # how an answer is compared, see `scoring`
    prompt: str  # the words of the user, without places for the pictures
    answer: str  # `[[x1, y1, x2, y2]]` on 0-1000 for a box, `MM:SS.ss` for a time
    images: tuple[Image.Image, ...]  # RGB
    times_s: tuple[float, ...] | None = None  # seconds, a frame each
    duration_s: float | None = None  # seconds; with `fps` it makes the prefix about the whole video
    fps: float | None = None  # frames a second
    choices: tuple[str, ...] = ()  # for a choice: the options, A first
    response: str = field(
        default="", compare=False
    )  # what a trained model writes, steps first; for training only
    regions: tuple[tuple[Region, ...], ...] = field(
        default=(), compare=False
    )  # of each picture; for training only


class Questions:
    """Questions that are made when their turn comes, so that their pictures never fill the memory together."""

    def __init__(self, makers: Sequence[Callable[[], Question]]) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    def __iter__(self) -> Iterator[Question]:
        return (make() for make in self._makers)

    def part(self, start: int, end: int) -> Questions:
        """The questions from `start` up to, without, `end`; none of them is made by this."""
        return Questions(self._makers[start:end])
