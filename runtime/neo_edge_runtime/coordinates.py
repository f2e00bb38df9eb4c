"""From the numbers that a model writes to pixels of the picture that it was shown."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge.real_number import is_real
from neo_edge.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    Picture = tuple[int, int] | Image.Image | npt.NDArray[np.generic]

_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose rows are the upright picture's columns
_ORIENTATION = 0x0112  # EXIF tag
_ENDLESS = 1e300  # what is beyond is no coordinate, and whole numbers beyond floats are none


def _is_number(value: object) -> bool:  # above THOUSANDTHS, whose check runs while this is imported
    return is_real(value) and -_ENDLESS < value < _ENDLESS


@dataclass(frozen=True)
class Point:
    """A place in a picture, in pixels from its upper left corner."""

    x: float  # 0 is the left edge, the picture's width the right one
    y: float  # 0 is the upper edge, the picture's height the lower one
    label: str | None = None  # what the model says is there


@dataclass(frozen=True)
class Box:
    """An upright rectangle in a picture, in pixels; its corners are in order and within the picture."""

    x1: float  # left
    y1: float  # top
    x2: float  # right
    y2: float  # bottom
    label: str | None = None  # what the model says is there

    @property
    def width(self) -> float:
        """Pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Pixels."""
        return self.y2 - self.y1

    @property
    def centre(self) -> Point:
        """The middle, with the same label."""
        return Point((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2, self.label)


@dataclass(frozen=True)
class CoordinateScale:
    """What a model's numbers mean: those that stand for the right and the lower edge; 0 is the left and upper one.

    NEO-ov, the small checkpoint that ships included, writes thousandths of the picture's width and height:
    `THOUSANDTHS`. `CoordinateScale(1, 1)` is for fractions, and `CoordinateScale(width, height)` for pixels.
    """

    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not all(_is_number(edge) and edge > 0 for edge in (self.right, self.bottom)):
            raise InputError(
                f"a scale ends at {shown(self.right)} and {shown(self.bottom)}; both must be above zero"
            )

    def point(self, numbers: Sequence[float], picture: Picture, label: str | None = None) -> Point:
        """Pixels of `[x, y]`; what lies outside the picture goes to its edge.

        Args:
            numbers: as the model wrote them.
            picture: that the model was shown, or its (width, height) in pixels.
            label: what is there.

        Raises:
            InputError: there are not two finite numbers, or no picture.
        """
        x, y = _finite(numbers, 2)
        width, height = picture_size(picture)
        return Point(_within(x, self.right, width), _within(y, self.bottom, height), label)

    def box(self, numbers: Sequence[float], picture: Picture, label: str | None = None) -> Box:
        """Pixels of `[x1, y1, x2, y2]`, in any order of the corners; otherwise as `point`."""
        x1, y1, x2, y2 = _finite(numbers, 4)
        size = picture_size(picture)
        first, second = self.point((x1, y1), size), self.point((x2, y2), size)
        return Box(
            min(first.x, second.x),
            min(first.y, second.y),
            max(first.x, second.x),
            max(first.y, second.y),
            label,
        )


THOUSANDTHS = CoordinateScale(1000, 1000)
"""NEO-ov's scale."""


def picture_size(picture: Picture) -> tuple[int, int]:
    """(width, height) in pixels of a PIL image as it is seen upright, of an array [H, W, ...], or as given.

    Raises:
        InputError: it is none of these, or has no pixels.
    """
    found: Sequence[object]
    if isinstance(picture, tuple | list):
        found = picture
    else:
        shape = getattr(picture, "shape", None)  # an array's
        found = _upright_size(picture) if shape is None else shape[1::-1] if len(shape) >= 2 else ()
    sides = [int(side) for side in found if isinstance(side, Integral)]
    if len(sides) == len(found) == 2 and min(sides) > 0:
        return sides[0], sides[1]
    raise InputError(
        f"a picture is {shown(picture)}; pass its (width, height) in pixels, a PIL image, or an array [H, W, 3]"
    )


def _upright_size(picture: object) -> Sequence[object]:
    size: Sequence[object] = getattr(picture, "size", ())
    exif: Callable[[], Mapping[int, int]] = getattr(picture, "getexif", dict)
    return size[::-1] if exif().get(_ORIENTATION) in _TRANSPOSED else size


def _finite(numbers: Sequence[float], count: int) -> list[float]:
    if len(numbers) != count or not all(map(_is_number, numbers)):
        raise InputError(f"coordinates are {shown(list(numbers))}; {count} finite numbers are needed")
    return [float(number) for number in numbers]


def _within(number: float, edge: float, pixels: int) -> float:
    return min(max(number / edge * pixels, 0.0), float(pixels))
