"""The sampler against transformers' formulas, written here the long way round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neo_edge.options import SamplingOptions
from neo_edge_runtime.sampling import Sampler, distribution


def processed(logits: np.ndarray, options: SamplingOptions, seen: list[int]) -> np.ndarray:
    """Probabilities of all tokens, filter by filter over the whole vocabulary, with -inf for what is removed."""
    scores = logits.astype(np.float64).copy()
    for token in set(seen):
        penalty = options.repetition_penalty
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    scores /= options.temperature
    if options.top_k is not None:
        kth = np.sort(scores)[-min(options.top_k, len(scores))]
        scores[scores < kth] = -np.inf
    if options.top_p is not None and options.top_p < 1:
        ascending = np.argsort(scores, kind="stable")
        cumulative = np.cumsum(softmax(scores)[ascending])
        removed = cumulative <= 1 - options.top_p
        removed[-1] = False
        scores[ascending[removed]] = -np.inf
    if options.min_p is not None:
        probabilities = softmax(scores)
        scores[probabilities < options.min_p * probabilities.max()] = -np.inf
    return softmax(scores)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def found(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    candidates, probabilities = distribution(logits, options)
    whole = np.zeros(len(logits))
    whole[candidates] = probabilities
    return whole


OPTIONS = [
    SamplingOptions(temperature=0.6, top_p=0.95, top_k=20),
    SamplingOptions(temperature=1.0),
    SamplingOptions(temperature=0.3, top_k=1),
    SamplingOptions(temperature=1.3, top_k=5000),
    SamplingOptions(temperature=0.8, top_p=0.5),
    SamplingOptions(temperature=2.0, top_p=0.999),
    SamplingOptions(temperature=1.0, top_p=1e-6),
    SamplingOptions(temperature=1.0, min_p=0.1),
    SamplingOptions(temperature=0.7, top_k=50, top_p=0.9, min_p=0.05),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("vocab", [7, 320, 4096])
def test_the_distribution_is_transformers(options: SamplingOptions, vocab: int) -> None:
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)
        np.testing.assert_allclose(found(logits, options), processed(logits, options, []), atol=2e-6)


@pytest.mark.parametrize("top_k", [None, 700])
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("vocab", [7, 512, 5000])
def test_top_p_gives_the_very_numbers_of_a_sort_of_all(
    vocab: int, top_p: float, scale: float, top_k: int | None
) -> None:
    options = SamplingOptions(temperature=0.7, top_p=top_p, top_k=top_k)
    for seed in range(4):
        logits = np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32)
        if seed % 2:
            logits = np.round(logits)  # many are equal
        scores = logits / np.float32(0.7)
        least = -np.inf if top_k is None else np.sort(scores)[-min(top_k, vocab)]
        weights = np.exp(scores - scores.max())
        ids = np.flatnonzero(scores >= least)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        # Weights are summed in the order of the ids, and the running sum is that of the sorted ones.
        reaching = top_p * weights[scores >= least].sum(dtype=np.float64)
        before = np.concatenate([[0.0], np.cumsum(weights[ids], dtype=np.float64)[:-1]])
        ids = ids[before < reaching]
        expected = weights[ids].astype(np.float64)
        candidates, probabilities = distribution(logits, options)
        np.testing.assert_array_equal(candidates, ids)
        np.testing.assert_array_equal(probabilities, expected / expected.sum())


def test_equal_logits_at_the_edge_of_top_k_all_stay() -> None:
    candidates, _ = distribution(
        np.array([1, 5, 3, 3, 3, 0], np.float32), SamplingOptions(temperature=1.0, top_k=2)
    )
    assert sorted(candidates.tolist()) == [1, 2, 3, 4]


def test_top_p_keeps_the_token_that_reaches_p_and_none_behind_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    candidates, probabilities = distribution(logits, SamplingOptions(temperature=1.0, top_p=0.7))
    assert sorted(candidates.tolist()) == [0, 1]
    np.testing.assert_allclose(sorted(probabilities), [0.375, 0.625], rtol=1e-5)


@pytest.mark.parametrize("penalty", [1.05, 1.8, 0.5])
def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits_once_a_token(
    penalty: float,
) -> None:
    options = SamplingOptions(repetition_penalty=penalty)
    logits = np.array([4.0, -1.0, 3.9, 0.0, 2.0], np.float32)
    given_logits = logits.copy()
    Sampler(options, [0, 1, 0, 0, 3]).sample(given_logits)
    np.testing.assert_allclose(given_logits, [4.0 / penalty, -1.0 * penalty, 3.9, 0.0, 2.0], rtol=1e-6)


def test_generated_tokens_are_penalized_too() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    logits = np.array([3.0, 2.0, 1.6, 0.1], np.float32)
    assert [sampler.sample(logits.copy()) for _ in range(4)] == [0, 1, 2, 0]


def test_greedy_takes_the_likeliest_token() -> None:
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert Sampler(SamplingOptions()).sample(logits) == int(np.argmax(logits))


def test_a_seed_makes_an_answer_repeatable_and_another_seed_another_answer() -> None:
    logits = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.sample(row.copy()) for row in logits]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    logits = np.log(np.array([0.6, 0.25, 0.15], np.float32))
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=1))
    counts = np.bincount([sampler.sample(logits.copy()) for _ in range(4000)], minlength=3) / 4000
    # Three standard deviations of the largest share are 0.024.
    np.testing.assert_allclose(counts, [0.6, 0.25, 0.15], atol=0.03)


@given(
    seed=st.integers(0, 2**31),
    vocab=st.integers(2, 900),
    scale=st.floats(0.01, 20),
    temperature=st.floats(0.05, 3),
    top_k=st.none() | st.integers(1, 1000),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_any_options_leave_a_distribution_that_holds_the_likeliest_token(
    seed: int,
    vocab: int,
    scale: float,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32)
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    candidates, probabilities = distribution(logits, options)
    assert int(logits.argmax()) in candidates
    assert len(set(candidates.tolist())) == len(candidates)
    assert probabilities.min() >= 0
    assert abs(probabilities.sum() - 1) < 1e-9
    if top_k is not None:
        assert len(candidates) <= max(top_k, 1)
    token = Sampler(replace(options, seed=seed)).sample(logits)
    assert token in candidates
