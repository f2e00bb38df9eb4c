"""Chooses the next token, in transformers' order: repetition penalty, temperature, top-k, top-p, min-p, draw.

Each filter works on the few candidates that the one before it left, so that a step over 151k logits costs a
partition and not a sort.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from neo_edge.options import SamplingOptions

_FIRST_LOOK, _SECOND_LOOK = 32, 512  # so many of the likeliest tokens top-p tries before it sorts them all


class Sampler:
    """One answer's sampling: its options, its random numbers and the tokens it has seen."""

    def __init__(self, options: SamplingOptions, prompt_ids: Iterable[int] = ()) -> None:
        """`prompt_ids` count as seen for the repetition penalty."""
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._penalizes = options.repetition_penalty != 1.0
        self._seen = set(prompt_ids) if self._penalizes else set()
        self._seen_ids = np.fromiter(self._seen, np.int64, len(self._seen))

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token after [V] float32 logits, which this may overwrite."""
        if self._penalizes:
            self._penalize(logits)
        if self._options.greedy:
            token = int(logits.argmax())
        else:
            candidates, probabilities = distribution(logits, self._options)
            reached = np.searchsorted(np.cumsum(probabilities), self._random.random(), side="right")
            token = int(candidates[min(int(reached), len(candidates) - 1)])
        if self._penalizes and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        return token

    def _penalize(self, logits: npt.NDArray[np.float32]) -> None:
        penalty = np.float32(self._options.repetition_penalty)
        seen = logits[self._seen_ids]
        logits[self._seen_ids] = np.where(seen < 0, seen * penalty, seen / penalty)


def distribution(
    logits: npt.NDArray[np.float32], options: SamplingOptions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Candidates that temperature, top-k, top-p and min-p leave of [V] logits, and their probabilities.

    Equal logits at the edge of top-k all stay, as in transformers. `options.temperature` must be above 0.
    """
    scores: npt.NDArray[np.float32] = np.divide(logits, options.temperature, dtype=np.float32)
    candidates = _top_k(scores, options.top_k)
    if options.top_p is not None and options.top_p < 1:
        candidates = _top_p(scores, candidates, options.top_p)
    kept = scores[candidates]
    if options.min_p:
        # p >= min_p * p_max, without the exponentials of those that go
        likely = kept >= kept.max() + math.log(options.min_p)
        candidates, kept = candidates[likely], kept[likely]
    probabilities = _weights(kept).astype(np.float64)
    return candidates, probabilities / probabilities.sum()


def _top_k(scores: npt.NDArray[np.float32], k: int | None) -> npt.NDArray[np.int64]:
    if k is None or k >= len(scores):
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= least)


def _top_p(
    scores: npt.NDArray[np.float32], candidates: npt.NDArray[np.int64], p: float
) -> npt.NDArray[np.int64]:
    """The fewest likeliest candidates that reach p; at least one."""
    weights = _weights(scores[candidates])
    reaching = p * float(weights.sum(dtype=np.float64))
    for looked_at in (_FIRST_LOOK, _SECOND_LOOK, len(candidates)):
        if looked_at < len(candidates):
            least = np.partition(weights, len(weights) - looked_at)[len(weights) - looked_at]
            likeliest = np.flatnonzero(weights >= least)
        else:
            likeliest = np.arange(len(candidates))
        likeliest = likeliest[np.argsort(-weights[likeliest], kind="stable")]
        reached = np.cumsum(weights[likeliest], dtype=np.float64)
        if reached[-1] >= reaching:
            break
    # A token goes when it and all less likely ones together make at most 1 - p; that is, when those before it reach p.
    before = np.concatenate([[0.0], reached[:-1]])
    return candidates[likeliest[before < reaching]]


def _weights(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities but for their common factor; the likeliest has 1."""
    weights: npt.NDArray[np.float32] = np.exp(scores - scores.max())
    return weights
