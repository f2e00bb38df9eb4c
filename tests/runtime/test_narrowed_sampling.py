"""Sampling from the largest logits alone: the very numbers of all logits, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neo_edge.options import SamplingOptions
from neo_edge_runtime.backend import Candidates
from neo_edge_runtime.sampling import Sampler, distribution, narrowed_distribution

ERROR = 1e-5


def narrowed(logits: np.ndarray, temperature: float, keep: int, *, off: float = 0.0) -> Candidates:
    """What a device finds; its sum is `off` times the allowed error away."""
    below = np.sort(logits)[-keep]
    tokens = np.flatnonzero(logits > below)
    scores = (logits / np.float32(temperature)).astype(np.float64)
    total = np.exp(scores - scores.max()).sum() * (1 + off * (ERROR - 1e-6))
    return Candidates(tokens, logits[tokens], float(below), float(total), ERROR, finite=True)


def peaked(seed: int, vocab: int = 4000, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32)


DECIDED = [
    SamplingOptions(temperature=0.6, top_p=0.95, top_k=20),
    SamplingOptions(temperature=2.0, top_k=100),
    SamplingOptions(temperature=0.7, top_k=50, top_p=0.9, min_p=0.05),
    SamplingOptions(temperature=0.5, top_p=0.9),
    SamplingOptions(temperature=0.5, top_p=0.5, min_p=0.2),
    SamplingOptions(temperature=1.0, top_p=1e-6),
    SamplingOptions(temperature=1.0, min_p=0.1),
    SamplingOptions(temperature=1.0, min_p=1.0),
]


@pytest.mark.parametrize("options", DECIDED)
@pytest.mark.parametrize("off", [-1.0, 1.0])
def test_what_the_largest_logits_decide_is_the_distribution_of_all(
    options: SamplingOptions, off: float
) -> None:
    for seed in range(10):
        logits = peaked(seed)
        assert Sampler(options).narrows
        found = narrowed_distribution(narrowed(logits, options.temperature, 500, off=off), options)
        assert found is not None
        for ours, theirs in zip(found, distribution(logits, options), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.0),
        SamplingOptions(temperature=1.0, top_p=1.0),
        SamplingOptions(temperature=1.0, top_k=1024, top_p=0.5),
        SamplingOptions(temperature=1.0, top_k=20, repetition_penalty=0.9),
        SamplingOptions(temperature=1.0, top_p=0.9, repetition_penalty=1.1),
        SamplingOptions(),
    ],
)
def test_options_that_look_at_all_logits_or_one_are_not_narrowed(options: SamplingOptions) -> None:
    assert not Sampler(options).narrows


def test_what_is_left_open_is_not_guessed() -> None:
    flat, logits = np.zeros(4000, np.float32), peaked(0)

    def decided(logits: np.ndarray, keep: int, **options: float) -> bool:
        chosen = SamplingOptions(temperature=1.0, **options)  # type: ignore[arg-type]
        return narrowed_distribution(narrowed(logits, 1.0, keep), chosen) is not None

    assert not decided(flat, 500, top_k=20), "all are equal: none is above the 500th"
    assert decided(logits, 21, top_k=20)
    assert not decided(logits, 20, top_k=20), "the 20th is the edge"
    assert not decided(logits, 500, top_p=0.99999), "more than 500 make so much"
    assert not decided(logits, 5, min_p=1e-3)
    steps = np.repeat(np.float32([9, 8]), 2000)
    assert not decided(steps, 2500, top_k=2001), "those at 8 are equal to the edge"
    assert decided(steps, 2500, top_k=2000)


def test_logits_that_the_temperature_makes_equal_count_as_equal() -> None:
    # Neighbours below 2; divided, they lie half as close as floats do there.
    logits = np.float32(1.95) + np.arange(3000, dtype=np.float32) * np.float32(2**-23)
    scores = logits / np.float32(1.9)
    assert len(np.unique(scores)) < len(logits)
    undecided = 0
    for top_k in range(10, 20):
        options = SamplingOptions(temperature=1.9, top_k=top_k)
        found = narrowed_distribution(narrowed(logits, 1.9, top_k + 1), options)
        assert (found is None) == (scores[-top_k] == scores[-top_k - 1])
        undecided += found is None
        later = narrowed_distribution(narrowed(logits, 1.9, top_k + 4), options)
        assert later is not None
        np.testing.assert_array_equal(later[0], distribution(logits, options)[0])
    assert undecided > 0


def test_a_sum_that_decides_by_its_error_leaves_top_p_open() -> None:
    logits = np.log(np.repeat(np.float32([1.0, 0.5]), [4, 4000]))
    exact = SamplingOptions(temperature=1.0, top_p=3 / 2004)  # three of the likeliest make it, or four
    assert narrowed_distribution(narrowed(logits, 1.0, 1000), exact) is None
    for p in (2.9 / 2004, 3.1 / 2004):
        options = SamplingOptions(temperature=1.0, top_p=p)
        # Those that are not here weigh half of the last one that stays.
        found = narrowed_distribution(narrowed(logits, 1.0, 1000), options)
        assert found is not None
        np.testing.assert_array_equal(found[0], distribution(logits, options)[0])


@given(
    seed=st.integers(0, 2**31),
    vocab=st.integers(2, 900),
    scale=st.floats(0.01, 20),
    rounded=st.booleans(),
    temperature=st.just(0.0) | st.floats(0.05, 3),
    top_k=st.none() | st.integers(1, 1000),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
    penalty=st.floats(1, 2),
    share=st.floats(0, 0.5),
    off=st.floats(-1, 1),
)
@settings(max_examples=400, deadline=None)
def test_a_token_is_that_of_all_logits_or_the_sampler_is_as_it_was(
    seed: int,
    vocab: int,
    scale: float,
    rounded: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    penalty: float,
    share: float,
    off: float,
) -> None:
    random = np.random.default_rng(seed)
    options = SamplingOptions(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty, seed=seed
    )
    seen = random.integers(0, vocab, 20).tolist()
    ours, theirs = Sampler(options, seen), Sampler(options, seen)
    if not ours.narrows:
        return
    keep = max(1, int(share * vocab))
    for _ in range(6):
        logits = random.normal(0, scale, vocab).astype(np.float32)
        logits = np.round(logits) if rounded else logits
        token = ours.sample_narrowed(narrowed(logits, temperature or 1.0, keep, off=off))
        expected = theirs.sample(logits.copy())
        assert (ours.sample(logits) if token is None else token) == expected


def test_the_candidates_stay_as_they_are() -> None:
    logits = peaked(1)
    found = narrowed(logits, 1.0, 50)
    kept = replace(found, logits=found.logits.copy())
    Sampler(SamplingOptions(temperature=1.0, top_k=5, repetition_penalty=1.5), range(4000)).sample_narrowed(
        found
    )
    np.testing.assert_array_equal(found.logits, kept.logits)
