"""Objects, and how they are painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from neo_edge_calibration.question import Region

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 32),
    "green": (34, 160, 48),
    "blue": (36, 64, 220),
    "yellow": (236, 220, 40),
    "purple": (140, 36, 180),
    "orange": (244, 132, 20),
    "white": (244, 244, 244),
    "black": (14, 14, 14),
}
SHAPES = ("ball", "cube", "cone", "star", "ring")
SUPERSAMPLING = 3  # outlines are drawn this much larger, then averaged
BOX_STEP = 10  # boxes are rounded to this many thousandths of the picture


@dataclass(frozen=True)
class Place:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2

    @property
    def area(self) -> int:
        return self.width * self.height

    def apart(self, other: Place, gap: int) -> bool:
        """True where at least `gap` pixels lie between the two."""
        return (
            self.left >= other.left + other.width + gap
            or other.left >= self.left + self.width + gap
            or self.top >= other.top + other.height + gap
            or other.top >= self.top + self.height + gap
        )

    def distance(self, other: Place) -> float:
        """Pixels between the centres."""
        return math.dist(self.centre, other.centre)


@dataclass(frozen=True)
class Thing:
    """A coloured shape in its place."""

    colour: str
    shape: str
    place: Place

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A picture's size and what is in it."""

    width: int  # pixels
    height: int  # pixels
    things: tuple[Thing, ...]

    def box(self, thing: Thing) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in thousandths of the picture, rounded to `BOX_STEP`."""
        place = thing.place
        edges = (
            place.left / self.width,
            place.top / self.height,
            (place.left + place.width) / self.width,
            (place.top + place.height) / self.height,
        )
        x1, y1, x2, y2 = (round(edge * 1000 / BOX_STEP) * BOX_STEP for edge in edges)
        return x1, y1, x2, y2

    def regions(self) -> tuple[Region, ...]:
        """All things with their boxes."""
        return tuple(Region(thing.name, self.box(thing)) for thing in self.things)


def paint(scene: Scene, rng: Random, background: Background | None = None) -> Image.Image:
    """The scene as an RGB picture; frames of one video share a `background`."""
    canvas = (background or Background.sample(rng)).paint(scene.width, scene.height, rng)
    for thing in scene.things:
        tile, mask = _painted(thing, rng)
        canvas.paste(tile, (thing.place.left, thing.place.top), mask)
    return canvas


@dataclass(frozen=True)
class Background:
    """A greyish wall: base colour, a slope of brightness, and grain."""

    base: tuple[float, float, float]
    slope: tuple[float, float]  # brightness from one side to the other, x and y
    grain: int  # largest deviation of a pixel

    @classmethod
    def sample(cls, rng: Random) -> Background:
        grey = rng.uniform(80, 165)
        red, green, blue = (grey + rng.uniform(-14, 14) for _ in range(3))
        return cls((red, green, blue), (rng.uniform(-24, 24), rng.uniform(-24, 24)), rng.randint(0, 12))

    def paint(self, width: int, height: int, rng: Random) -> Image.Image:
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None]
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
        plane = np.asarray(self.base, np.float32) + x * self.slope[0] + y * self.slope[1]
        return Image.fromarray(_with_grain(plane, self.grain, rng))


def _painted(thing: Thing, rng: Random) -> tuple[Image.Image, Image.Image]:
    """The thing's colours and its outline as a mask, both of its own size."""
    width, height = thing.place.width, thing.place.height
    colour = np.asarray([channel + rng.uniform(-14, 14) for channel in COLOURS[thing.colour]], np.float32)
    light = np.linspace(rng.uniform(1.0, 1.08), rng.uniform(0.82, 1.0), height, dtype=np.float32)
    tile = np.broadcast_to(colour * light[:, None, None], (height, width, 3))
    return Image.fromarray(_with_grain(tile, rng.randint(0, 6), rng)), _outline(thing.shape, width, height)


def _outline(shape: str, width: int, height: int) -> Image.Image:
    wide, high = width * SUPERSAMPLING, height * SUPERSAMPLING
    mask = Image.new("L", (wide, high), 0)
    draw = ImageDraw.Draw(mask)
    whole = (0, 0, wide - 1, high - 1)
    if shape == "ball":
        draw.ellipse(whole, fill=255)
    elif shape == "cube":
        draw.rectangle(whole, fill=255)
    elif shape == "cone":
        draw.polygon([(wide / 2, 0), (wide - 1, high - 1), (0, high - 1)], fill=255)
    elif shape == "star":
        draw.polygon([(x * (wide - 1), y * (high - 1)) for x, y in _STAR], fill=255)
    elif shape == "ring":
        draw.ellipse(whole, fill=255)
        draw.ellipse((wide * 0.27, high * 0.27, wide * 0.73, high * 0.73), fill=0)
    else:
        raise AssertionError(f"no outline for {shape!r}")
    return mask.resize((width, height), Image.Resampling.BOX)


def _star_points() -> Sequence[tuple[float, float]]:
    """Five points, stretched to fill a unit square."""
    raw = [
        (math.sin(turn * math.pi / 5) * radius, -math.cos(turn * math.pi / 5) * radius)
        for turn in range(10)
        for radius in ((1.0 if turn % 2 == 0 else 0.42),)
    ]
    left, right = min(x for x, _ in raw), max(x for x, _ in raw)
    top, bottom = min(y for _, y in raw), max(y for _, y in raw)
    return [((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in raw]


_STAR = _star_points()


def _with_grain(plane: np.ndarray, grain: int, rng: Random) -> np.ndarray:
    if grain:
        noise = np.random.default_rng(rng.getrandbits(63)).integers(-grain, grain + 1, plane.shape, np.int8)
        plane = plane + noise
    return plane.clip(0, 255).astype(np.uint8)
