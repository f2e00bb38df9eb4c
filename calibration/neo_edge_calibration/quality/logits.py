"""What two models think of the same tokens, from their logits; a few rows at a time, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neo_edge.positions import layout

if TYPE_CHECKING:
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.session import Session

PIECE_LOGITS = 1 << 21  # of one piece: 8 MiB in float32, and a few times 16 MiB while it is compared


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[N, V] float32 logits -> [N, V] float64 natural logarithms of the probabilities."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def divergence(reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL(reference || other) in nats, [N], of two [N, V] arrays of `log_probabilities`.

    Rounding can bring the sum of equal rows just below zero; it is zero then.
    """
    found: npt.NDArray[np.float64] = (np.exp(reference) * (reference - other)).sum(axis=1)
    return np.maximum(found, 0.0)


def surprise(log_probability: npt.NDArray[np.float64], tokens: Sequence[int]) -> float:
    """Sum of -log p of N tokens, in nats, of [N, V] `log_probabilities`."""
    return -float(log_probability[np.arange(len(tokens)), tokens].sum())


def forced_logits(
    session: Session,
    first: npt.NDArray[np.float32],
    tokens: Sequence[int],
    special: SpecialTokens,
    piece_logits: int = PIECE_LOGITS,
) -> Iterator[npt.NDArray[np.float32]]:
    """Logits that predict each of `tokens` behind a prompt, in pieces [n, V].

    The tokens are fed whatever the model would have chosen (teacher forcing), several in a run, as a prefill does.

    Args:
        session: stands at the prompt's end; afterwards behind the last token but one.
        first: [V], what the prompt itself predicts.
        tokens: none of them, but for the last, an image context token.
        special: the model's.
        piece_logits: most numbers of a piece, unless one row alone has more.
    """
    yield first[None]
    rows = max(1, piece_logits // len(first))
    fed = tokens[:-1]
    for start in range(0, len(fed), rows):
        piece = np.array(fed[start : start + rows], np.int64)
        placed = layout(piece, (), special, start_length=session.length, start_t=session.next_t)
        yield session.prefill(piece, placed, all_logits=True)
