"""Where things go: sizes of pictures, places that do not overlap, names that do not repeat."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from neo_edge_calibration.scenes.drawing import COLOURS, SHAPES, Place, Scene, Thing

SIDE_PX = (96, 320)  # a picture's sides
MIN_THING_PX = 40  # a shape then covers a visual token of 32 px, wherever it lies
GAP_PX = 4  # free pixels between two things
T = TypeVar("T")


def until(build: Callable[[], T | None], tries: int = 2000) -> T:
    """The first thing that `build` gives and that is not None."""
    for _ in range(tries):
        built = build()
        if built is not None:
            return built
    raise AssertionError("no scene fits the question's conditions")


def picture_size(rng: Random, low: int = SIDE_PX[0], high: int = SIDE_PX[1]) -> tuple[int, int]:
    """Width and height in pixels; small pictures are as frequent as large ones."""
    width, height = (round(low * (high / low) ** rng.random()) for _ in range(2))
    return width, height


def place(rng: Random, width: int, height: int, among: list[Place]) -> Place | None:
    """A free place of random size, or None when the dice find none."""
    largest = max(MIN_THING_PX + 4, round(min(width, height) * 0.34))
    wide = rng.randint(MIN_THING_PX, largest)
    high = min(max(MIN_THING_PX, round(wide * rng.uniform(0.8, 1.25))), largest)
    found = Place(rng.randint(1, width - wide - 1), rng.randint(1, height - high - 1), wide, high)
    return found if all(found.apart(other, GAP_PX) for other in among) else None


def places(rng: Random, width: int, height: int, count: int) -> list[Place]:
    """`count` places that do not touch."""

    def attempt() -> list[Place] | None:
        found: list[Place] = []
        for _ in range(count * 12):
            if len(found) == count:
                break
            new = place(rng, width, height, found)
            if new is not None:
                found.append(new)
        return found if len(found) == count else None

    return until(attempt)


def capacity(width: int, height: int, most: int = 5) -> int:
    """How many things fit without a long search."""
    return max(2, min(most, width * height // 7500))


def names(rng: Random, count: int) -> list[tuple[str, str]]:
    """`count` different pairs of colour and shape."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return rng.sample(pairs, count)


def scene_of(rng: Random, kinds: list[tuple[str, str]], width: int, height: int) -> Scene:
    """A scene with one thing of each given colour and shape."""
    found = places(rng, width, height, len(kinds))
    things = tuple(Thing(colour, shape, spot) for (colour, shape), spot in zip(kinds, found, strict=True))
    return Scene(width, height, things)


def random_scene(rng: Random, least: int, most: int = 5) -> Scene:
    """A scene of random size with at least `least` differently named things."""
    width, height = until(lambda: _roomy(rng, least))
    return scene_of(rng, names(rng, rng.randint(least, capacity(width, height, most))), width, height)


def _roomy(rng: Random, least: int) -> tuple[int, int] | None:
    size = picture_size(rng)
    return size if capacity(*size) >= least else None
