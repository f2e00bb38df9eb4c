"""An RGB picture -> its size for the model -> rows of the flat patch matrix, in packed order.

Numbers are upstream's: Pillow's bicubic resize, then (x / 255 - mean) / std, a patch flattened as
(channel, row, column).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from neo_edge.errors import ImageError, InputError
from neo_edge.patch_grid import PatchGrid, smart_resize
from neo_edge.shown import shown

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import VisionConfig

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, per RGB channel, as upstream
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class PixelLimits:
    """How large a picture may be when it reaches the model."""

    min_pixels: int  # smaller pictures are scaled up to this area
    max_pixels: int  # larger ones are scaled down to it
    max_visual_tokens: int | None = None  # a picture that still gives more is refused; None: no refusal

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.min_pixels < 1 or self.min_pixels > self.max_pixels:
            raise InputError(
                f"pixel limits {shown(self.min_pixels)}..{shown(self.max_pixels)} are impossible: "
                "both must be above zero and the first at most the second"
            )
        if self.max_visual_tokens is not None and self.max_visual_tokens < 1:
            raise InputError(f"max_visual_tokens is {shown(self.max_visual_tokens)}; it must be above zero")


@dataclass(frozen=True)
class SizedImage:
    """One picture at the size that the model sees; its patches are cut when the vision graph is about to run."""

    pixels: npt.NDArray[np.uint8]  # [H, W, 3] RGB
    grid: PatchGrid


def target_size(image_size: tuple[int, int], config: VisionConfig, limits: PixelLimits) -> tuple[int, int]:
    """(width, height) in pixels that a picture of (width, height) is resized to.

    Raises:
        ImageError: the picture is too long and thin, or gives more visual tokens than the limits allow.
    """
    width, height = image_size
    new_height, new_width = smart_resize(
        height,
        width,
        token_size=config.token_size,
        min_pixels=limits.min_pixels,
        max_pixels=limits.max_pixels,
    )
    tokens = (new_height // config.token_size) * (new_width // config.token_size)
    allowed = limits.max_visual_tokens
    if allowed is not None and tokens > allowed:
        raise ImageError(
            f"image {width}x{height} gives {tokens} visual tokens; this session allows {allowed}: "
            f"pass max_pixels={allowed * config.token_size**2} or open it with max_visual_tokens>={tokens}"
        )
    return new_width, new_height


def size_image(image: Image.Image, config: VisionConfig, limits: PixelLimits) -> SizedImage:
    """Resizes an RGB picture to whole visual tokens.

    Raises:
        ImageError: as `target_size`.
    """
    size = target_size(image.size, config, limits)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    return SizedImage(
        np.asarray(resized), PatchGrid(rows=size[1] // config.patch_size, cols=size[0] // config.patch_size)
    )


def pack_pixels(pixels: npt.NDArray[np.uint8], config: VisionConfig) -> npt.NDArray[np.float32]:
    """Normalizes and cuts [H, W, 3] uint8 into [P, 768] float32; the patches of one visual token are neighbours.

    H and W must be multiples of a visual token's side.
    """
    height, width, channels = pixels.shape
    patch, merge = config.patch_size, config.merge_size
    rows, cols = height // config.token_size, width // config.token_size
    split = pixels.reshape(rows, merge, patch, cols, merge, patch, channels)
    ordered = split.transpose(0, 3, 1, 4, 6, 2, 5)  # token row, token col, dy, dx, channel, row, col
    packed = np.empty((rows * cols * merge**2, channels, patch * patch), np.float32)
    mean, std = MEAN[:, None], STD[:, None]
    # A row of tokens at a time stays in the processor's cache for all three steps.
    for bytes_of_row, row in zip(ordered, np.split(packed, rows), strict=True):
        np.divide(np.ascontiguousarray(bytes_of_row).reshape(row.shape), np.float32(255), out=row)
        row -= mean
        row /= std
    return packed.reshape(len(packed), config.patch_dim)
