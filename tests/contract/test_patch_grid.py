from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge.errors import ImageError, InputError
from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy, smart_resize

TOKEN = 32

even = st.integers(1, 12).map(lambda half: 2 * half)
grids = st.builds(PatchGrid, even, even)
sides = st.integers(1, 5000)
limits = st.tuples(st.integers(1, 2_000_000), st.integers(1, 2_000_000)).map(sorted)


@given(grids)
def test_packing_is_a_permutation_of_the_patches(grid: PatchGrid) -> None:
    assert sorted(pack_order(grid).tolist()) == list(range(grid.patches))


@given(grids)
def test_four_neighbours_in_packed_order_are_one_2x2_group(grid: PatchGrid) -> None:
    xy = packed_patch_xy([grid]).reshape(grid.visual_tokens, 4, 2)
    rows, cols = grid.merged
    corner = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 1, 2) * 2
    np.testing.assert_array_equal(xy - corner, [[[0, 0], [1, 0], [0, 1], [1, 1]]] * grid.visual_tokens)


@given(st.lists(grids, max_size=4))
def test_positions_restart_with_each_image_and_match_the_order(images: list[PatchGrid]) -> None:
    xy = packed_patch_xy(images)
    assert xy.dtype == np.int32
    assert xy.shape == (sum(grid.patches for grid in images), 2)
    start = 0
    for grid in images:
        part = xy[start : start + grid.patches]
        np.testing.assert_array_equal(part[:, 1] * grid.cols + part[:, 0], pack_order(grid))
        start += grid.patches


@pytest.mark.parametrize(("rows", "cols"), [(3, 2), (2, 5), (0, 2), (2, -2)])
def test_a_grid_that_cannot_merge_is_refused(rows: int, cols: int) -> None:
    with pytest.raises(ImageError, match="smart_resize"):
        PatchGrid(rows, cols)


def test_a_picture_that_does_not_divide_into_patches_is_refused() -> None:
    assert PatchGrid.from_pixels(64, 96, patch_size=16) == PatchGrid(4, 6)
    with pytest.raises(ImageError, match="96x65"):
        PatchGrid.from_pixels(65, 96, patch_size=16)


@given(sides, sides, limits)
def test_resized_sides_are_whole_tokens(height: int, width: int, pixels: list[int]) -> None:
    if max(height, width) > 200 * min(height, width):
        return
    low, high = pixels
    new_height, new_width = smart_resize(height, width, token_size=TOKEN, min_pixels=low, max_pixels=high)
    assert new_height % TOKEN == new_width % TOKEN == 0
    assert min(new_height, new_width) >= TOKEN


@given(sides, sides, limits)
def test_the_area_stays_in_the_limits_unless_a_side_is_at_its_least(
    height: int, width: int, pixels: list[int]
) -> None:
    if max(height, width) > 200 * min(height, width):
        return
    low, high = pixels
    new_height, new_width = smart_resize(height, width, token_size=TOKEN, min_pixels=low, max_pixels=high)
    area = new_height * new_width
    rounded = max(TOKEN, round(height / TOKEN) * TOKEN) * max(TOKEN, round(width / TOKEN) * TOKEN)
    if rounded > high:
        assert area <= high or min(new_height, new_width) == TOKEN
    elif rounded < low:
        assert area >= low
    else:
        assert area == rounded


def test_halves_round_to_even_as_upstream_does() -> None:
    sizes = [
        smart_resize(48, side, token_size=TOKEN, min_pixels=1, max_pixels=10**9)[1] for side in (48, 80, 112)
    ]
    assert sizes == [64, 64, 128]


# Visual tokens of a picture under upstream's three settings and the class default, computed with upstream's code.
@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (640, 480, (1302, 204, 690, 300)),
        (1280, 720, (1296, 220, 646, 880)),
        (448, 448, (1296, 196, 676, 196)),
        (1920, 1080, (2040, 220, 646, 2040)),
    ],
)
def test_known_pictures_give_upstreams_numbers_of_visual_tokens(
    width: int, height: int, tokens: tuple[int, ...]
) -> None:
    settings = [(1310720, 16777216), (4096, 230400), (691200, 691200), (65536, 4194304)]
    found = []
    for low, high in settings:
        size = smart_resize(height, width, token_size=TOKEN, min_pixels=low, max_pixels=high)
        found.append(PatchGrid.from_pixels(*size, patch_size=16).visual_tokens)
    assert tuple(found) == tokens


def test_a_picture_longer_than_200_times_its_breadth_is_refused() -> None:
    assert smart_resize(32, 6400, token_size=TOKEN, min_pixels=1, max_pixels=10**9) == (32, 6400)
    with pytest.raises(ImageError, match="6401x32"):
        smart_resize(32, 6401, token_size=TOKEN, min_pixels=1, max_pixels=10**9)


def test_a_very_long_picture_keeps_one_token_of_breadth() -> None:
    height, width = smart_resize(10, 2000, token_size=TOKEN, min_pixels=1, max_pixels=16 * TOKEN**2)
    assert height == TOKEN
    assert width == math.floor(2000 / math.sqrt(20000 / (16 * TOKEN**2)) / TOKEN) * TOKEN


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, 5)])
def test_an_empty_picture_is_refused(height: int, width: int) -> None:
    with pytest.raises(ImageError, match="empty"):
        smart_resize(height, width, token_size=TOKEN, min_pixels=1, max_pixels=10)


@pytest.mark.parametrize(("low", "high"), [(2, 1), (0, 1)])
def test_limits_that_contradict_each_other_are_refused(low: int, high: int) -> None:
    with pytest.raises(InputError, match="min_pixels"):
        smart_resize(10, 10, token_size=TOKEN, min_pixels=low, max_pixels=high)
