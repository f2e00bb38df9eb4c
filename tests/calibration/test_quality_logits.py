"""Probabilities from logits: exact in the tails, and the same whatever the pieces are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy_backend import NumpyBackend

from neo_edge.positions import layout
from neo_edge.tokens import SpecialTokens
from neo_edge_calibration.quality.logits import divergence, forced_logits, log_probabilities, surprise
from neo_edge_runtime.session import Session

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
SPECIAL = SpecialTokens(317, 318, 319, (2, 0))
PROMPT = np.array([5, 6, 7, 8])
ANSWER = (9, 10, 11, 12, 13, 14, 2)


def test_probabilities_of_huge_logits_are_finite() -> None:
    logits = np.array([[3e4, 3e4, -3e4], [0.0, 0.0, 0.0]], np.float32)
    found = log_probabilities(logits)
    np.testing.assert_allclose(found[0, :2], np.log(0.5))
    assert found[0, 2] == pytest.approx(-6e4 - np.log(2), abs=1e-9)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_the_divergence_is_that_of_the_definition() -> None:
    first, second = np.array([[0.7, 0.2, 0.1]]), np.array([[0.5, 0.3, 0.2]])
    logits = [np.log(p).astype(np.float32) + np.float32(3) for p in (first, second)]
    wanted = 0.7 * np.log(0.7 / 0.5) + 0.2 * np.log(0.2 / 0.3) + 0.1 * np.log(0.1 / 0.2)
    found = divergence(*(log_probabilities(one) for one in logits))
    np.testing.assert_allclose(found, [wanted], rtol=1e-6)


def test_equal_logits_diverge_by_nothing_and_never_by_less() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 1000)).astype(np.float32) * 10
    shifted = log_probabilities(logits + np.float32(1))
    assert (divergence(log_probabilities(logits), log_probabilities(logits)) == 0).all()
    found = divergence(log_probabilities(logits), shifted)
    assert found.min() >= 0
    assert found.max() < 1e-9


def test_a_small_difference_is_not_lost_in_rounding() -> None:
    # KL is half the variance of the difference of logits under p, for small differences.
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, 300)).astype(np.float32)
    other = (logits + rng.normal(size=logits.shape) * 1e-3).astype(np.float32)
    p = np.exp(log_probabilities(logits))[0]
    gap = (other.astype(np.float64) - logits)[0]
    variance = float((p * gap**2).sum() - (p * gap).sum() ** 2)
    found = divergence(log_probabilities(logits), log_probabilities(other))[0]
    assert found == pytest.approx(variance / 2, rel=0.01)


def test_surprise_adds_up_the_chosen_tokens() -> None:
    found = surprise(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), (1, 2))
    assert found == pytest.approx(-np.log(0.25) - np.log(0.8))


def behind_prompt(backend: NumpyBackend) -> tuple[Session, npt.NDArray[np.float32]]:
    session = Session(backend)
    return session, session.prefill(PROMPT, layout(PROMPT, (), SPECIAL))[-1]


@pytest.mark.parametrize("piece_logits", [1, 320 * 2, 320 * 4, 1 << 21])
def test_forced_logits_are_those_of_decoding_whatever_the_pieces(piece_logits: int) -> None:
    backend = NumpyBackend(GOLDEN)
    session, first = behind_prompt(backend)
    decoded = [first, *(session.decode(token) for token in ANSWER[:-1])]
    session, first = behind_prompt(backend)
    before = len(backend.runs)
    pieces = list(forced_logits(session, first, ANSWER, SPECIAL, piece_logits))
    assert max(map(len, pieces)) <= max(1, piece_logits // 320)
    np.testing.assert_allclose(np.concatenate(pieces), decoded, atol=1e-5)
    assert sum(backend.runs[before:]) == len(ANSWER) - 1  # the last token is predicted and not fed


def test_an_answer_of_one_token_is_predicted_by_the_prompt_alone() -> None:
    backend = NumpyBackend(GOLDEN)
    session, first = behind_prompt(backend)
    runs = len(backend.runs)
    (piece,) = forced_logits(session, first, (2,), SPECIAL)
    np.testing.assert_array_equal(piece, first[None])
    assert len(backend.runs) == runs
