from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_golden import GOLDEN, Golden, grids_of, read_golden

from neo_edge.config import load_config
from neo_edge.errors import ImageError, InputError
from neo_edge.patch_grid import pack_order
from neo_edge_runtime.preprocessing import PixelLimits, pack_pixels, size_image, target_size

VISION = load_config(GOLDEN).vision


def test_patches_equal_upstreams_pixel_values(golden: Golden) -> None:
    start = 0
    for index, grid in enumerate(grids_of(golden)):
        packed = pack_pixels(golden[f"image_{index}"], VISION)
        expected = golden["pixel_values"][start : start + grid.patches][pack_order(grid)]
        assert packed.dtype == np.float32
        assert np.abs(packed - expected).max() <= 1e-6
        start += grid.patches


def test_patches_are_the_definition_worked_out_one_by_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    packed = pack_pixels(pixels, VISION)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = []
    for token_row in range(2):
        for token_col in range(3):
            for dy in range(2):
                for dx in range(2):
                    y, x = (2 * token_row + dy) * 16, (2 * token_col + dx) * 16
                    patch = (pixels[y : y + 16, x : x + 16] / 255 - mean) / std
                    expected.append(patch.transpose(2, 0, 1).ravel())
    assert np.abs(packed - np.array(expected)).max() <= 1e-6


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (8192, 64), (32, 4096), (640, 480)])
def test_patches_are_those_of_float32_step_by_step(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    normal = (np.asarray(image) / np.float32(255) - mean) / std
    rows, cols = size[1] // 32, size[0] // 32
    expected = normal.reshape(rows, 2, 16, cols, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 768)
    sized = size_image(image, VISION, PixelLimits(1024, 4194304))
    memory = np.full((sized.grid.patches + 2, 768), 9, np.float32)
    packed = pack_pixels(sized.pixels, VISION, out=memory[1:-1])
    assert np.shares_memory(packed, memory)
    # Numbers reach 2.6, where float32 has steps of 2.4e-7.
    assert np.abs(memory[1:-1] - expected).max() <= 5e-7
    assert (memory[[0, -1]] == 9).all()
    assert np.array_equal(pack_pixels(np.asarray(image), VISION), memory[1:-1])


def test_resizing_is_pillows_bicubic() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (100, 70, 3)).astype(np.uint8))
    sized = size_image(image, VISION, PixelLimits(65536, 4194304))
    # 100x70 px is enlarged to at least 65536 px: 320x224
    assert (sized.grid.rows, sized.grid.cols) == (20, 14)
    assert np.array_equal(sized.pixels, np.asarray(image.resize((224, 320), Image.Resampling.BICUBIC)))


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    golden = read_golden("multi_image")
    sized = size_image(Image.fromarray(golden["image_0"]), VISION, PixelLimits(1024, 4194304))
    assert np.array_equal(sized.pixels, golden["image_0"])


@pytest.mark.parametrize(
    ("size", "limits", "tokens"),
    [
        ((640, 480), PixelLimits(65536, 4194304), 300),
        ((1280, 720), PixelLimits(65536, 4194304), 880),
        ((1920, 1080), PixelLimits(1310720, 16777216), 2040),
        ((640, 480), PixelLimits(4096, 230400), 204),
        ((448, 448), PixelLimits(691200, 691200), 676),
    ],
)
def test_visual_token_counts_are_upstreams(size: tuple[int, int], limits: PixelLimits, tokens: int) -> None:
    width, height = target_size(size, VISION, limits)
    assert width * height == tokens * 32 * 32


def test_a_picture_with_too_many_visual_tokens_is_refused_with_the_cure() -> None:
    with pytest.raises(
        ImageError,
        match="image 1000x700 gives 682 visual tokens; this session allows 512: "
        "pass max_pixels=524288 or open it with max_visual_tokens>=682",
    ):
        target_size((1000, 700), VISION, PixelLimits(65536, 4194304, max_visual_tokens=512))
    # The cure works.
    assert target_size((1000, 700), VISION, PixelLimits(65536, 524288, max_visual_tokens=512)) == (864, 576)


@pytest.mark.parametrize("limits", [(0, 10), (10, 0), (11, 10), (1, 10, 0)])
def test_impossible_limits_are_refused(limits: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        PixelLimits(*limits)


def test_a_picture_like_a_thread_is_refused() -> None:
    with pytest.raises(ImageError, match="200 times"):
        target_size((2010, 10), VISION, PixelLimits(65536, 4194304))
