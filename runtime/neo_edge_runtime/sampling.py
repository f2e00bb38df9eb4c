"""Chooses the next token, in transformers' order: repetition penalty, temperature, top-k, top-p, min-p, draw.

Each filter works on the few candidates that the one before it left, so that a step over 151k logits costs a
partition and not a sort.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neo_edge_runtime.backend import MOST_CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.backend import Candidates

_LOOKS = 32, 512  # so many of the likeliest tokens top-p tries before it sorts all that may stay
_EXPONENTIAL_ERROR = 1e-6  # of numpy's exp in float32, which may not rise where its argument does; 8 units


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

    @property
    def narrows(self) -> bool:
        """Whether `sample_narrowed` mostly decides."""
        options = self._options
        if options.repetition_penalty < 1:  # it lifts logits that are not among the largest
            return False
        if options.greedy:
            return self._penalizes
        if options.top_k is not None:
            return options.top_k < MOST_CANDIDATES
        if _cuts_at_p(options):  # a penalty changes the sum over all tokens
            return not self._penalizes
        return bool(options.min_p)

    def sample_narrowed(self, found: Candidates) -> int | None:
        """The token that `sample` would give for all logits; None when these leave it open, and nothing has changed."""
        logits = found.logits
        if self._penalizes:
            # Nothing rises, so what is not here stays at most `below`.
            logits = np.where(np.isin(found.tokens, self._seen_ids), self._penalized(logits), logits)
        if self._options.greedy:
            best = int(logits.argmax()) if len(logits) else None
            token = None if best is None or not logits[best] > found.below else int(found.tokens[best])
        else:
            stay = narrowed_distribution(replace(found, logits=logits), self._options)
            token = None if stay is None else self._draw(*stay)
        if token is not None:
            self._note(token)
        return token

    def sample(self, logits: npt.NDArray[np.float32], allowed: npt.NDArray[np.int64] | None = None) -> int:
        """The next token after [V] float32 logits, which this may overwrite.

        Only the ids in `allowed` are looked at, as if the logits of all others were minus infinity; None: all are.
        """
        if self._penalizes:
            self._penalize(logits)
        token = self._choose(logits) if allowed is None else int(allowed[self._choose(logits[allowed])])
        self._note(token)
        return token

    def _note(self, token: int) -> None:
        if self._penalizes and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)

    def _choose(self, logits: npt.NDArray[np.float32]) -> int:
        if self._options.greedy:
            return int(logits.argmax())
        return self._draw(*distribution(logits, self._options))

    def _draw(self, candidates: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> int:
        drawn = self._random.random()
        if len(candidates) == 1:
            return int(candidates[0])
        reached = int(probabilities.cumsum().searchsorted(drawn, side="right"))
        return int(candidates[min(reached, len(candidates) - 1)])

    def _penalize(self, logits: npt.NDArray[np.float32]) -> None:
        logits[self._seen_ids] = self._penalized(logits[self._seen_ids])

    def _penalized(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        penalty = np.float32(self._options.repetition_penalty)
        penalized: npt.NDArray[np.float32] = np.where(logits < 0, logits * penalty, logits / penalty)
        return penalized


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
    if _cuts_at_p(options):
        assert options.top_p is not None
        likeliest, weights = _top_p(weights, options.top_p)
        candidates = likeliest if candidates is None else candidates[likeliest]
        scores = scores[likeliest]
    if candidates is None:
        candidates = np.arange(len(scores))
    return _at_least_min_p(candidates, scores, weights, options)


def narrowed_distribution(
    found: Candidates, options: SamplingOptions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    """The very numbers of `distribution` for all V logits; None when the largest ones leave them open.

    They do when a token that is not here could stay, or when the sum's error decides which is the last one.
    """
    if not len(found.logits):
        return None
    temperature = np.float32(options.temperature)
    scores: npt.NDArray[np.float32] = np.divide(found.logits, temperature)
    edge = np.float32(found.below) / temperature  # no score that is not here is above it
    if options.top_k is None and _cuts_at_p(options):
        return _narrowed_top_p(found, scores, edge, options)
    if options.top_k is not None:
        if options.top_k > len(scores):
            return None
        least = np.partition(scores, len(scores) - options.top_k)[len(scores) - options.top_k]
    elif options.min_p:
        least = _least_likely(scores, options.min_p)
    else:
        return None
    if not least > edge:
        return None
    places, probabilities = distribution(found.logits, options)
    return found.tokens[places], probabilities


def _narrowed_top_p(
    found: Candidates, scores: npt.NDArray[np.float32], edge: np.float32, options: SamplingOptions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    assert options.top_p is not None
    reaching = options.top_p * found.total
    least, most = reaching * (1 - found.total_error), reaching * (1 + found.total_error)
    weights = _weights(scores)
    order = (-weights).argsort(kind="stable")
    weights = weights[order]
    reached = np.add.accumulate(weights, dtype=np.float64)
    kept = 1 + int(reached.searchsorted(least))
    if not reached[-1] >= most or kept != 1 + int(reached.searchsorted(most)):
        return None
    if not weights[kept - 1] > math.exp(edge - scores.max()) * (1 + _EXPONENTIAL_ERROR):
        return None
    order = order[:kept]
    return _at_least_min_p(found.tokens[order], scores[order], weights[:kept], options)


def _cuts_at_p(options: SamplingOptions) -> bool:
    return options.top_p is not None and options.top_p < 1


def _least_likely(scores: npt.NDArray[np.float32], min_p: float) -> np.float32:
    """p >= min_p * p_max, without the rounding of the exponentials."""
    least: np.float32 = scores.max() + math.log(min_p)
    return least


def _at_least_min_p(
    candidates: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    options: SamplingOptions,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    if options.min_p:
        likely = scores >= _least_likely(scores, options.min_p)
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
