from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge.errors import InputError, PromptError
from neo_edge.patch_grid import PatchGrid
from neo_edge.positions import SequenceLayout, layout
from neo_edge.tokens import SpecialTokens

TOKENS = SpecialTokens(img_context=317, img_start=318, img_end=319, eos=())

even = st.integers(1, 3).map(lambda half: 2 * half)
# A prompt as a list of text tokens (numbers) and images (grids).
prompts = st.lists(st.one_of(st.integers(0, 316), st.builds(PatchGrid, even, even)), min_size=1, max_size=12)


def spell(prompt: list[int | PatchGrid]) -> tuple[list[int], list[PatchGrid]]:
    ids: list[int] = []
    for part in prompt:
        ids += [part] if isinstance(part, int) else [318, *[317] * part.visual_tokens, 319]
    return ids, [part for part in prompt if isinstance(part, PatchGrid)]


def test_positions_and_mask_equal_upstreams(golden_case: dict[str, np.ndarray]) -> None:
    grids = [PatchGrid(*grid) for grid in golden_case["grid_hw"].tolist()]
    found = layout(golden_case["input_ids"], grids, TOKENS)
    np.testing.assert_array_equal(found.position_ids, golden_case["indexes"])
    columns = np.arange(len(found.visible_length))
    np.testing.assert_array_equal(columns < found.visible_length[:, None], golden_case["allow"])
    np.testing.assert_array_equal([found.next_t, 0, 0], golden_case["decode_indexes"][0])


def test_positions_equal_upstreams_formula_on_any_prompt() -> None:
    @given(prompts)
    def check(prompt: list[int | PatchGrid]) -> None:
        ids, grids = spell(prompt)
        previous_is_img = np.array([False, *[token == 318 for token in ids[:-1]]])
        t = np.cumsum(previous_is_img.astype(int) + (np.array(ids) != 317)) - 1
        found = layout(ids, grids, TOKENS)
        np.testing.assert_array_equal(found.position_ids[0], t)
        allow = (t[:, None] == t) | (np.arange(len(ids)) <= np.arange(len(ids))[:, None])
        np.testing.assert_array_equal(np.arange(len(ids)) < found.visible_length[:, None], allow)

    check()


@given(prompts, st.data())
def test_pieces_cut_at_a_boundary_equal_the_whole(prompt: list[int | PatchGrid], data: st.DataObject) -> None:
    ids, grids = spell(prompt)
    whole = layout(ids, grids, TOKENS)
    cut = int(data.draw(st.sampled_from(whole.boundaries.tolist())))
    images_before = sum(int(start) < cut for start in np.flatnonzero(np.array(ids) == 318))
    first = layout(ids[:cut], grids[:images_before], TOKENS)
    assert first.next_t == whole.t_after(cut)
    second = layout(ids[cut:], grids[images_before:], TOKENS, start_length=cut, start_t=first.next_t)
    for name in ("position_ids", "visible_length", "is_visual"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)], axis=-1)
        np.testing.assert_array_equal(joined, getattr(whole, name))
    np.testing.assert_array_equal(
        np.concatenate([first.boundaries, second.boundaries + cut]), whole.boundaries
    )
    assert second.next_t == whole.next_t


def test_boundaries_never_fall_inside_an_image_or_behind_img() -> None:
    ids, grids = spell([1, PatchGrid(2, 4), 2])
    assert ids == [1, 318, 317, 317, 319, 2]
    assert layout(ids, grids, TOKENS).boundaries.tolist() == [1, 4, 5, 6]


def test_an_image_moves_t_by_one_whatever_its_size() -> None:
    for grid in (PatchGrid(2, 2), PatchGrid(8, 6)):
        ids, grids = spell([5, grid, 6])
        found = layout(ids, grids, TOKENS)
        assert found.position_ids[0, [0, 1, 2, -3, -2, -1]].tolist() == [0, 1, 2, 2, 3, 4]
        assert found.next_t == 5


def test_an_empty_piece_leaves_t_where_it_was() -> None:
    found = layout([], [], TOKENS, start_length=7, start_t=3)
    assert isinstance(found, SequenceLayout)
    assert found.next_t == 3
    assert found.position_ids.shape == (3, 0)
    assert found.boundaries.size == 0


def test_types_are_those_of_the_graphs() -> None:
    found = layout([1, 318, 317, 319], [PatchGrid(2, 2)], TOKENS)
    assert found.position_ids.dtype == found.visible_length.dtype == np.int32
    assert found.is_visual.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, 318, 317, 319], [], "1 runs of image context tokens for 0 images"),
        ([1, 2], [PatchGrid(2, 2)], "0 runs"),
        ([318, 317, 317, 319], [PatchGrid(2, 2)], "has 2 context tokens"),
        ([1, 317, 319], [PatchGrid(2, 2)], "must follow its own <img>"),
        ([318, 1, 2], [], "no other <img>"),
        ([317], [PatchGrid(2, 2)], "must follow its own <img>"),
    ],
)
def test_images_that_do_not_fit_the_prompt_are_refused(
    ids: list[int], grids: list[PatchGrid], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        layout(ids, grids, TOKENS)


def test_what_is_no_row_of_ids_is_refused() -> None:
    with pytest.raises(InputError, match="one row"):
        layout(np.zeros((2, 3), np.int64), [], TOKENS)
    with pytest.raises(InputError, match="one row"):
        layout(np.array([0.5]), [], TOKENS)
    with pytest.raises(InputError, match="negative"):
        layout([1], [], TOKENS, start_length=-1)
