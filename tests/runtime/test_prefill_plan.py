from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_golden import TOKENS

from neo_edge.errors import InputError
from neo_edge.patch_grid import PatchGrid
from neo_edge.positions import SequenceLayout, layout
from neo_edge_runtime.kv_cache import capacity_for
from neo_edge_runtime.prefill_plan import plan_prefill


def laid_out(pieces: list[int]) -> SequenceLayout:
    """0 is a text token, n > 0 an image of n visual tokens between its `<img>` and `</img>`."""
    ids: list[int] = []
    for size in pieces:
        ids += [TOKENS.img_start, *[TOKENS.img_context] * size, TOKENS.img_end] if size else [1]
    return layout(ids, [PatchGrid(2, 2 * size) for size in pieces if size], TOKENS)


@given(
    pieces=st.lists(st.sampled_from([0, 0, 0, 1, 5, 40]), min_size=1, max_size=30),
    chunk_tokens=st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_chunks_cover_the_prompt_end_only_at_legal_places_and_are_short_where_images_allow(
    pieces: list[int], chunk_tokens: int
) -> None:
    prompt = laid_out(pieces)
    chunks = plan_prefill(prompt, chunk_tokens=chunk_tokens, start_length=0, capacity=0, max_tokens=None)
    ends = [chunk.end for chunk in chunks]
    assert [chunk.start for chunk in chunks] == [0, *ends[:-1]]
    assert ends[-1] == len(prompt.visible_length)
    visual = prompt.is_visual
    legal = {end for end in range(1, len(visual)) if visual[end] and not visual[end - 1]}  # behind an `<img>`
    legal |= set(prompt.boundaries.tolist())
    assert set(ends) <= legal
    for chunk in chunks:
        # No token of a chunk sees beyond the chunk.
        assert prompt.visible_length[chunk.start : chunk.end].max() <= chunk.end
        if chunk.end - chunk.start > chunk_tokens:
            assert not legal & set(range(chunk.start + 1, chunk.end)), "a shorter legal chunk was there"
            assert visual[chunk.start : chunk.end].all(), "nothing stands beside an image that is too long"
        assert chunk.capacity >= chunk.end


def test_capacities_grow_with_the_chunks() -> None:
    chunks = plan_prefill(laid_out([0] * 1000), chunk_tokens=300, start_length=0, capacity=0, max_tokens=None)
    assert [(chunk.start, chunk.end, chunk.capacity) for chunk in chunks] == [
        (0, 300, 384),
        (300, 600, 704),
        (600, 900, 1024),
        (900, 1000, 1024),
    ]


@pytest.mark.parametrize("chunk_tokens", [0, -5])
def test_a_chunk_size_below_one_is_refused(chunk_tokens: int) -> None:
    with pytest.raises(InputError, match="chunk_tokens"):
        plan_prefill(laid_out([0]), chunk_tokens=chunk_tokens, start_length=0, capacity=0, max_tokens=None)


def test_an_empty_piece_is_refused() -> None:
    with pytest.raises(InputError, match="0 tokens"):
        plan_prefill(layout([], [], TOKENS), chunk_tokens=5, start_length=0, capacity=0, max_tokens=None)


@pytest.mark.parametrize(
    ("length", "capacity", "limit", "wanted"),
    [
        (1, 0, None, 128),
        (64, 0, None, 128),
        (65, 0, None, 192),
        (129, 128, None, 256),
        (512, 0, None, 576),
        (1024, 0, None, 1152),
        (1153, 1152, None, 1344),
        (8192, 0, None, 9216),
        (200, 256, None, 256),
        (257, 256, 300, 300),
        (5, 0, 10, 10),
        (300, 300, 300, 300),
    ],
)
def test_there_is_room_for_an_eighth_more_in_whole_blocks(
    length: int, capacity: int, limit: int | None, wanted: int
) -> None:
    assert capacity_for(length, capacity, limit) == wanted
