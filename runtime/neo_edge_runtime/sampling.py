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

_LOOKS = 32, 512  # so many of the likeliest tokens top-p tries before it sorts all that may stay


class Sampler:
    """One answer's sampling: its options, its random numbers and the tokens it has seen."""

    def __init__(self, options: SamplingOptions, prompt_ids: Iterable[int] = ()) -> None:
        """`prompt_ids` count as seen for the repetition penalty."""
        self._options = options
        self._random = np.random.default_rng(options.seed)
        self._penalizes = options.repetition_penalty != 1.0
        self._seen = set(prompt_ids) if self._penalizes else set()
        self._seen_ids = np.fromiter(self._seen, np.int64, len(self._seen))

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the arg-max of the logits as they come."""
        return self._options.greedy and not self._penalizes

    def sample(self, logits: npt.NDArray[np.float32], allowed: npt.NDArray[np.int64] | None = None) -> int:
        """The next token after [V] float32 logits, which this may overwrite.

        Only the ids in `allowed` are looked at, as if the logits of all others were minus infinity; None: all are.
        """
        if self._penalizes:
            self._penalize(logits)
        token = self._choose(logits) if allowed is None else int(allowed[self._choose(logits[allowed])])
        if self._penalizes and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        return token

    def _choose(self, logits: npt.NDArray[np.float32]) -> int:
        if self._options.greedy:
            return int(logits.argmax())
        candidates, probabilities = distribution(logits, self._options)
        drawn = self._random.random()
        if len(candidates) == 1:
            return int(candidates[0])
        reached = int(probabilities.cumsum().searchsorted(drawn, side="right"))
        return int(candidates[min(reached, len(candidates) - 1)])

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
    scores: npt.NDArray[np.float32] = np.divide(logits, np.float32(options.temperature))
    candidates = None  # all of them: a selection of 151k costs as much as the choice
    if options.top_k is not None and options.top_k < len(scores):
        candidates = _top_k(scores, options.top_k)
        scores = scores[candidates]
    weights = _weights(scores)
    if options.top_p is not None and options.top_p < 1:
        likeliest, weights = _top_p(weights, options.top_p)
        candidates = likeliest if candidates is None else candidates[likeliest]
        scores = scores[likeliest]
    if candidates is None:
        candidates = np.arange(len(scores))
    if options.min_p:
        # p >= min_p * p_max, without the rounding of the exponentials
        likely = scores >= scores.max() + math.log(options.min_p)
        candidates, weights = candidates[likely], weights[likely]
    if len(candidates) == 1:
        return candidates, np.ones(1)
    probabilities = weights.astype(np.float64)
    return candidates, probabilities / np.add.reduce(probabilities)


def _top_k(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= least)


def _weights(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities but for their common factor; the likeliest has 1."""
    below: npt.NDArray[np.float32] = scores - np.maximum.reduce(scores)
    return np.exp(below, out=below)


def _top_p(
    weights: npt.NDArray[np.float32], p: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The fewest likeliest places that reach p, at least one, and their weights; likeliest first."""
    total = float(np.add.reduce(weights, dtype=np.float64))
    reaching = p * total
    if reaching <= 1:  # the likeliest, which weighs 1, is enough; so it mostly is with a trained model
        return np.array([weights.argmax()]), np.ones(1, np.float32)
    # Those that weigh less than an even share of 1 - p make at most 1 - p together: all of them go.
    (places,) = (weights > (1 - p) * total / len(weights)).nonzero()
    looks = iter(_LOOKS)
    while True:
        looked_at = next(looks, len(weights))
        if looked_at < len(places):
            found = weights[places]
            least = np.partition(found, len(found) - looked_at)[len(found) - looked_at]
            likeliest = places[found >= least]
        elif looked_at < len(weights):
            likeliest = places
        else:  # rounding may have cost the last of them
            likeliest = np.arange(len(weights))
        found = weights[likeliest]
        order = (-found).argsort(kind="stable")
        found = found[order]
        reached = np.add.accumulate(found, dtype=np.float64)
        if reached[-1] >= reaching or looked_at >= len(weights):
            # A token goes when it and all less likely ones together make at most 1 - p; that is, when those before
            # it reach p.
            kept = 1 + int(reached.searchsorted(reaching))
            return likeliest[order[:kept]], found[:kept]
