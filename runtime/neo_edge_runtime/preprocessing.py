"""An RGB picture -> its size for the model -> rows of the flat patch matrix, in packed order.

Numbers are upstream's, to 5e-7: Pillow's bicubic resize, then (x / 255 - mean) / std, a patch flattened as
(channel, row, column).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from neo_edge.errors import ImageError, InputError
from neo_edge.patch_grid import PatchGrid, smart_resize
from neo_edge.shown import shown

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import VisionConfig
    from neo_edge_runtime.device_frame import DeviceFrame

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, per RGB channel, as upstream
STD = np.array([0.229, 0.224, 0.225], np.float32)
# x * SCALE - OFFSET is (x / 255 - MEAN) / STD to 5e-7, in two steps instead of three.
SCALE = (1 / (255 * STD.astype(np.float64))).astype(np.float32)
OFFSET = (MEAN.astype(np.float64) / STD).astype(np.float32)

_BLOCK_BYTES = 1 << 19  # of float32: stays in the processor's cache while it is normalized
_BAND_BYTES = 1 << 16  # of one channel: Pillow hands out no more in one piece, and copies pieces to join them


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

    pixels: npt.NDArray[np.uint8]  # [H, W, 3] RGB; a view of three planes, which are quicker to cut
    grid: PatchGrid
    frame: DeviceFrame | None = None  # on a GPU, where it is resized and cut; `pixels` is empty then


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
        _pixels(resized), PatchGrid(rows=size[1] // config.patch_size, cols=size[0] // config.patch_size)
    )


def size_frame(frame: DeviceFrame, config: VisionConfig, limits: PixelLimits) -> SizedImage:
    """A frame that stays on its GPU, with the size that it will be resized to; raises `ImageError` as `target_size`."""
    width, height = target_size((frame.width, frame.height), config, limits)
    grid = PatchGrid(rows=height // config.patch_size, cols=width // config.patch_size)
    return SizedImage(np.empty((0, 0, 3), np.uint8), grid, frame)


def pack_pixels(
    pixels: npt.NDArray[np.uint8], config: VisionConfig, *, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Normalizes and cuts [H, W, 3] uint8 into [P, 768] float32; the patches of one visual token are neighbours.

    H and W must be multiples of a visual token's side. One thread does it: two took longer at 640x480, and no less at
    1280x960.

    Args:
        pixels: RGB.
        config: says how large a patch is.
        out: [P, 768] float32, contiguous, to write into; None: new memory.
    """
    lines = _lines(pixels, config)
    rows, cols = lines.shape[:2]
    patches = rows * cols * config.merge_size**2
    packed = np.empty((patches, config.patch_dim), np.float32) if out is None else out
    tokens = packed.reshape(rows, cols, -1)
    scale, offset = _scale_and_offset_of_token(config.patch_size, config.merge_size)
    block = max(1, _BLOCK_BYTES // tokens[0].nbytes)
    for row in range(0, rows, block):
        part = tokens[row : row + block]
        # A step for each: numpy takes longer for a product of two types than for a cast and a product of one.
        part[...] = np.ascontiguousarray(lines[row : row + block]).view(np.uint8).reshape(part.shape)
        part *= scale
        part -= offset
    return packed


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, 3]; Pillow takes channels apart quicker than numpy does."""
    width, height = image.size
    planes: npt.NDArray[np.uint8] = np.empty((3, height, width), np.uint8)
    block = max(1, _BAND_BYTES // width)
    for top in range(0, height, block):
        bottom = min(top + block, height)
        band = image.crop((0, top, width, bottom))
        for plane, channel in zip(planes, "RGB", strict=True):
            plane[top:bottom] = np.frombuffer(band.tobytes("raw", channel), np.uint8).reshape(-1, width)
    pixels: npt.NDArray[np.uint8] = planes.transpose(1, 2, 0)
    return pixels


@cache
def _scale_and_offset_of_token(
    patch: int, merge: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Each [a token's numbers]: numpy takes longer for short rows."""
    scale, offset = (np.tile(np.repeat(each, patch**2), merge**2) for each in (SCALE, OFFSET))
    return scale, offset


def _lines(pixels: npt.NDArray[np.uint8], config: VisionConfig) -> npt.NDArray[np.void]:
    """[H, W, 3] in the order of packed patches: token row, token column, dy, dx, channel, row of a patch.

    One element is a row of a patch, so that it moves at once.
    """
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    channels, height, width = planes.shape
    patch, merge, side = config.patch_size, config.merge_size, config.token_size
    lines = planes.view(f"V{patch}").reshape(channels, height // side, merge, patch, width // side, merge)
    packed: npt.NDArray[np.void] = lines.transpose(1, 4, 2, 5, 0, 3)
    return packed
