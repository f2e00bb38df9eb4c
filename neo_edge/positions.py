"""Where each token of a prompt stands in time and space, and how far it sees.

Text moves t by one a token. An image moves it by one whatever its size: all its context tokens share the t
after `<img>` and carry (row, column) of the merged grid. A text token sees itself and all before it, an
image's token sees up to the end of its image; so one length per token is the whole attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neo_edge.errors import InputError, PromptError
from neo_edge.patch_grid import PatchGrid
from neo_edge.tokens import SpecialTokens


@dataclass(frozen=True)
class SequenceLayout:
    """Positions of S tokens that are appended to a sequence."""

    position_ids: npt.NDArray[np.int32]  # [3, S]: t, h, w
    visible_length: npt.NDArray[
        np.int32
    ]  # [S]: cache positions that the token may attend to, from position 0
    is_visual: npt.NDArray[np.bool_]  # [S]: the token is replaced by a visual token
    next_t: int  # t of a text token that would follow
    boundaries: npt.NDArray[
        np.int64
    ]  # [K]: lengths of this piece at which a chunk may end or a rewind may land

    def t_after(self, length: int) -> int:
        """t of a text token that would follow the first `length` tokens of this piece (length >= 1)."""
        return int(self.position_ids[0, length - 1]) + 1


def layout(
    input_ids: Sequence[int] | npt.NDArray[np.integer],
    grids: Sequence[PatchGrid],
    tokens: SpecialTokens,
    *,
    start_length: int = 0,
    start_t: int = 0,
) -> SequenceLayout:
    """Lays out a prompt, or the piece of one that follows `start_length` tokens.

    Args:
        input_ids: [S] token ids, image context tokens included.
        grids: one grid per run of context tokens, in order.
        tokens: the special ids.
        start_length: tokens that already stand in the cache.
        start_t: the `next_t` of what is there; a different number, since images move t by one.

    Raises:
        PromptError: the runs of context tokens do not fit the grids, or an image is not preceded by `<img>`.
        InputError: ids are not one flat row of integers, or a start is negative.
    """
    ids = np.asarray(input_ids)
    if ids.size == 0:
        ids = np.zeros(0, np.int64)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"input_ids has shape {ids.shape} and type {ids.dtype}; pass one row of whole numbers"
        )
    if start_length < 0 or start_t < 0:
        raise InputError(f"start_length {start_length} and start_t {start_t} must not be negative")
    is_visual = ids == tokens.img_context
    starts, ends = _runs(is_visual)
    _check_images(ids, starts, ends, grids, tokens)

    size = len(ids)
    position_ids = np.zeros((3, size), np.int32)
    # A text token moves t by one; so does the first context token of an image.
    steps = ~is_visual
    steps[starts] = True
    position_ids[0] = start_t - 1 + np.cumsum(steps)
    visible_length = (start_length + 1 + np.arange(size)).astype(np.int32)
    for start, end, grid in zip(starts, ends, grids, strict=True):
        rows, cols = grid.merged
        position_ids[1, start:end] = np.repeat(np.arange(rows), cols)
        position_ids[2, start:end] = np.tile(np.arange(cols), rows)
        visible_length[start:end] = start_length + end

    may_end = ~is_visual & (ids != tokens.img_start)
    may_end[ends - 1] = True
    return SequenceLayout(
        position_ids=position_ids,
        visible_length=visible_length,
        is_visual=is_visual,
        next_t=int(position_ids[0, -1]) + 1 if size else start_t,
        boundaries=np.flatnonzero(may_end) + 1,
    )


def _runs(flags: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and end (exclusive) of each run of true values."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _check_images(
    ids: npt.NDArray[np.integer],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    grids: Sequence[PatchGrid],
    tokens: SpecialTokens,
) -> None:
    if len(starts) != len(grids):
        raise PromptError(
            f"the prompt has {len(starts)} runs of image context tokens for {len(grids)} images: "
            "give each image one run of its own, between <img> and </img>"
        )
    openings = np.flatnonzero(ids == tokens.img_start)
    if len(openings) != len(starts) or np.any(openings + 1 != starts):
        raise PromptError(
            f"<img> stands at {openings.tolist()} and images begin at {starts.tolist()}: "
            "each image must follow its own <img>, and no other <img> may stand in the prompt"
        )
    for index, (start, end, grid) in enumerate(zip(starts, ends, grids, strict=True)):
        if end - start != grid.visual_tokens:
            raise PromptError(
                f"image {index} has {end - start} context tokens in the prompt and its grid of "
                f"{grid.rows}x{grid.cols} patches gives {grid.visual_tokens}: write one per visual token"
            )
