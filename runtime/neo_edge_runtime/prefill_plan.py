"""Where a long prompt is cut into decoder runs: only behind a text token or a whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.shown import shown
from neo_edge_runtime.kv_cache import capacity_for

if TYPE_CHECKING:
    from neo_edge.positions import SequenceLayout

DEFAULT_CHUNK_TOKENS = 1024  # an image of the `edge` protocol fits whole; scores stay at 16 heads x 1024 x T


class PrefillCancelledError(Exception):
    """The caller's event was set between two chunks; the session is where it was before the prefill."""


@dataclass(frozen=True)
class Chunk:
    """One decoder run of a prefill."""

    start: int  # first token, counted from the piece's start
    end: int  # one behind the last
    capacity: int  # C at which it runs


def plan_prefill(
    layout: SequenceLayout,
    *,
    chunk_tokens: int,
    start_length: int,
    capacity: int,
    max_tokens: int | None,
) -> list[Chunk]:
    """The longest legal chunks of at most `chunk_tokens`; an image longer than that stays whole.

    Args:
        layout: the piece's; its last token must be a legal end, as `neo_edge.positions.layout` sees to.
        chunk_tokens: wanted size of a chunk.
        start_length: tokens in the cache before the piece.
        capacity: cache positions before the piece.
        max_tokens: the session's limit, which bounds the capacity.

    Raises:
        InputError: `chunk_tokens` is below 1, or the piece ends where it must not.
    """
    if chunk_tokens < 1:
        raise InputError(f"chunk_tokens is {shown(chunk_tokens)}; it must be 1 or above")
    ends, size = layout.boundaries, len(layout.visible_length)
    if not size or not len(ends) or ends[-1] != size:
        raise InputError(f"a piece of {size} tokens must end behind a text token or a whole image")
    # Also behind the mark before an image, to which no rewind may lead: an image needs a chunk of its own tokens only.
    ends = np.union1d(ends, np.flatnonzero(np.diff(layout.is_visual.astype(np.int8)) == 1) + 1)
    chunks = []
    start = 0
    while start < size:
        fitting = int(np.searchsorted(ends, start + chunk_tokens, side="right")) - 1
        end = int(ends[fitting]) if fitting >= 0 else 0
        if end <= start:
            end = int(ends[np.searchsorted(ends, start, side="right")])
        capacity = capacity_for(start_length + end, capacity, max_tokens)
        chunks.append(Chunk(start, end, capacity))
        start = end
    return chunks
