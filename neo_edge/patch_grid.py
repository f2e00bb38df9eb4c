"""How a picture is cut into 16-pixel patches, and the order in which the patches are packed.

Visual token packing: the four patches of a 2x2 group, which become one visual token, stand next to each
other. The second convolution is then a plain matrix product, and images of any number and size share one
flat matrix without padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.errors import ImageError, InputError

MERGE = 2
"""Patches along one side of a visual token: NEO-ov's downsample ratio of 0.5."""

MAX_ASPECT_RATIO = 200
"""Longer pictures are refused, as upstream does."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one image; both sides are even, so that they merge 2x2."""

    rows: int  # patches along the height
    cols: int  # patches along the width

    def __post_init__(self) -> None:
        if self.rows < MERGE or self.cols < MERGE or self.rows % MERGE or self.cols % MERGE:
            raise ImageError(
                f"a grid of {self.rows}x{self.cols} patches cannot be merged 2x2: "
                "resize the image with smart_resize, which makes both sides multiples of two patches"
            )

    @classmethod
    def from_pixels(cls, height: int, width: int, *, patch_size: int) -> PatchGrid:
        """The grid of a resized picture; raises `ImageError` when a side is not a whole number of tokens."""
        if height % patch_size or width % patch_size:
            raise ImageError(
                f"a picture of {width}x{height} pixels does not divide into {patch_size}-pixel patches: "
                "resize it with smart_resize first"
            )
        return cls(height // patch_size, width // patch_size)

    @property
    def patches(self) -> int:
        """Number of patches (P of this image)."""
        return self.rows * self.cols

    @property
    def merged(self) -> tuple[int, int]:
        """Rows and columns in visual tokens."""
        return self.rows // MERGE, self.cols // MERGE

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens that the image becomes."""
        return self.patches // MERGE**2


def smart_resize(
    height: int, width: int, *, token_size: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The size that a picture is resized to: both sides whole visual tokens, the area within the limits.

    Upstream's rule, with Python's rounding of halves to even. A side never falls below one token, so the
    area of a very long picture can end above `max_pixels`.

    Args:
        height: pixels.
        width: pixels.
        token_size: pixels along one side of a visual token (32 in NEO-ov).
        min_pixels: smallest area.
        max_pixels: largest area.

    Returns:
        (height, width) in pixels.

    Raises:
        ImageError: an empty picture, or one longer than 200 times its breadth.
        InputError: the limits contradict each other.
    """
    if token_size < 1 or min_pixels < 1 or min_pixels > max_pixels:
        raise InputError(
            f"min_pixels {min_pixels} and max_pixels {max_pixels} (token size {token_size}) leave no size: "
            "pass 1 <= min_pixels <= max_pixels"
        )
    if height < 1 or width < 1:
        raise ImageError(f"a picture of {width}x{height} pixels is empty")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(
            f"a picture of {width}x{height} pixels is more than {MAX_ASPECT_RATIO} times as long as broad: crop it"
        )
    resized_height = max(token_size, round(height / token_size) * token_size)
    resized_width = max(token_size, round(width / token_size) * token_size)
    if resized_height * resized_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        resized_height = max(token_size, math.floor(height / shrink / token_size) * token_size)
        resized_width = max(token_size, math.floor(width / shrink / token_size) * token_size)
    elif resized_height * resized_width < min_pixels:
        enlarge = math.sqrt(min_pixels / (height * width))
        resized_height = math.ceil(height * enlarge / token_size) * token_size
        resized_width = math.ceil(width * enlarge / token_size) * token_size
    return resized_height, resized_width


def pack_order(grid: PatchGrid) -> npt.NDArray[np.int64]:
    """Row-major patch index of each packed position, [P] int64.

    `patches_row_major[pack_order(grid)]` is in packed order: 2x2 groups row-major, and (dy, dx) within one.
    """
    rows, cols = grid.merged
    index = np.arange(grid.patches, dtype=np.int64).reshape(rows, MERGE, cols, MERGE)
    order: npt.NDArray[np.int64] = index.transpose(0, 2, 1, 3).reshape(-1)
    return order


def packed_patch_xy(grids: Sequence[PatchGrid]) -> npt.NDArray[np.int32]:
    """Position of every packed patch, [P, 2] int32: x is the column and y the row, restarting per image."""
    if not grids:
        return np.zeros((0, 2), np.int32)
    rows_cols = [np.divmod(pack_order(grid), grid.cols) for grid in grids]
    return np.concatenate([np.stack([col, row], axis=1) for row, col in rows_cols]).astype(np.int32)
