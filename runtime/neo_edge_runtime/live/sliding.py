"""Changes to a filled cache that let a window slide over it: tokens dropped in place, positions moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import BackendError
from neo_edge.positions import layout
from neo_edge_runtime.backend import SlidingState
from neo_edge_runtime.decoder_inputs import EmbeddedTokens, chunk_inputs
from neo_edge_runtime.prefill_plan import Chunk
from neo_edge_runtime.session import Checkpoint

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.backend import Backend
    from neo_edge_runtime.session import Session

_RERUN_TOKENS = 64  # in one run: less scratch than any frame takes


def sliding_state(session: Session) -> SlidingState:
    """The session's cache; raises `BackendError` when the backend cannot change it in place."""
    state = session.lend_state()
    if not isinstance(state, SlidingState):
        raise BackendError(
            f"{type(state).__name__} cannot drop tokens from its cache: watch with policy='recompute'"
        )
    return state


def keep_tokens(session: Session, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Drops tokens from a cache; what stood last takes their places, so only as much moves as goes.

    The kept tokens' keys and values still hold what they saw of the dropped ones. t goes on where it was.

    Args:
        session: holds `length` tokens.
        kept: [length], which stay.

    Returns:
        [tokens that stay]: where each of them stood.
    """
    state = sliding_state(session)
    order = np.arange(int(kept.sum()))
    targets = np.flatnonzero(~kept[: len(order)])
    sources = len(order) + np.flatnonzero(kept[len(order) :])
    if len(sources):
        state.move(sources, targets)
    order[targets] = sources
    session.stand_at(Checkpoint(len(order), session.next_t))
    return order


def shift_positions(session: Session, steps: int) -> None:
    """Moves every token of a cache, and what follows, by `steps` of t: what they are to each other stays."""
    sliding_state(session).shift_t(steps, length=session.length)
    session.stand_at(Checkpoint(session.length, session.next_t + steps))


def rerun_start(
    backend: Backend, session: Session, ids: npt.NDArray[np.int64], tokens: SpecialTokens, start_t: int
) -> None:
    """Computes the first tokens of a cache anew, as if the first of them had this t; all others stay.

    They are text and see only each other, so this is exact, where turning their keys again and again would add up
    rounding.
    """
    state = session.lend_state()
    whole = layout(ids, [], tokens, start_t=start_t)
    embeds = EmbeddedTokens(backend, ids, whole.is_visual, None)
    for start in range(0, len(ids), _RERUN_TOKENS):
        chunk = Chunk(start, min(start + _RERUN_TOKENS, len(ids)), session.capacity)
        state.run(chunk_inputs(whole, chunk, embeds, 0, all_logits=False))
