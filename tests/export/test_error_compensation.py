"""Rounding that makes up for its own error: the update itself, and what it is worth on inputs it never saw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization.error_compensation import compensation
from neo_edge_export.quantization.weight_rounding import round_int4, round_int8

Matrix = npt.NDArray[np.float32]


def correlated_inputs(count: int, width: int, seed: int, rank: int = 24) -> Matrix:
    """Rows that a few directions explain for the most part, as activations are."""
    basis = np.random.default_rng(7).normal(size=(rank, width))
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, rank)) @ basis + rng.normal(size=(count, width))).astype(np.float32)


def random_weight(inputs: int, outputs: int) -> Matrix:
    return np.random.default_rng(0).standard_normal((inputs, outputs), np.float32)


def test_the_answer_to_an_error_is_that_of_the_whole_hessian() -> None:
    """Against the formula with the matrix [K, K] that the code avoids: -H_ff^-1 H_fd e for free f and done d."""
    rows = correlated_inputs(12, 40, seed=1).astype(np.float64)
    plan = compensation(rows, None, 16)
    inputs = plan.inputs.astype(np.float64)
    shrinkage = 1 - np.square(inputs).sum(axis=1) / np.square(rows).mean(axis=0)
    np.testing.assert_allclose(shrinkage, shrinkage[0], rtol=1e-4)
    hessian = inputs @ inputs.T + np.diag(shrinkage * np.square(rows).mean(axis=0))
    error = np.random.default_rng(2).normal(size=40)
    for done in (1, 7, 16, 32, 39):
        expected = np.linalg.solve(hessian[done:, done:], hessian[done:, :done] @ error[:done])
        owed = inputs[:done].T @ error[:done]
        np.testing.assert_allclose(plan.row_answer[done] @ owed, expected[0], rtol=1e-3)
        if done % 16 == 0:
            group = slice(done, min(done + 16, 40))
            np.testing.assert_allclose(plan.group_answer[group] @ owed, expected[: 40 - done][:16], rtol=1e-3)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.45), (8, 0.35)])
def test_outputs_of_unseen_inputs_are_nearer(bits: int, share: float) -> None:
    weight, unseen = random_weight(256, 40), correlated_inputs(500, 256, seed=2)
    rows = correlated_inputs(128, 256, seed=1)
    importance = np.square(rows).mean(axis=0)

    def error(sample: Matrix | None) -> float:
        rounded = (
            round_int4(weight, 32, importance=importance, rows=sample)
            if bits == 4
            else round_int8(weight, importance=importance, rows=sample)
        )
        return float(np.square(unseen @ (rounded.dequantized() - weight)).mean())

    assert error(rows) < share * error(None)


def test_inputs_without_correlation_leave_nothing_to_make_up_for() -> None:
    """The shrinkage sees that a chance correlation is none: it costs under 3 % where naive use would cost much."""
    rng = np.random.default_rng(3)
    weight, rows = random_weight(256, 40), rng.standard_normal((32, 256), np.float32)
    unseen = rng.standard_normal((2000, 256), np.float32)
    plain, compensated = round_int4(weight, 32), round_int4(weight, 32, rows=rows)
    errors = [np.square(unseen @ (r.dequantized() - weight)).mean() for r in (plain, compensated)]
    assert errors[1] < 1.03 * errors[0]


def test_columns_are_compensated_alike_in_any_slices() -> None:
    weight, rows = random_weight(96, 100), correlated_inputs(20, 96, seed=1)
    whole, part = round_int4(weight, 32, rows=rows), round_int4(weight[:, 50:61], 32, rows=rows)
    # Sums of another order may turn a number that lies between two steps.
    assert np.mean(whole.values[:, 50:61] != part.values) < 0.01


def test_values_and_scales_stay_inside_their_types() -> None:
    weight, rows = random_weight(90, 30), correlated_inputs(20, 90, seed=1)
    weight[:, 3] = 0
    four, eight = round_int4(weight, 32, rows=rows, scale_type="float16"), round_int8(weight, rows=rows)
    assert four.scale.shape == (3, 30)
    assert four.values.min() >= -8
    assert four.values.max() <= 7
    assert np.abs(eight.values).max() <= 127
    for rounded in (four, eight):
        assert np.all(rounded.scale > 0)
        assert not rounded.values[:, 3].any()
    np.testing.assert_array_equal(four.scale, four.scale.astype(np.float16).astype(np.float32))


def test_one_row_or_dead_inputs_change_nothing() -> None:
    weight = random_weight(64, 10)
    for rows in (np.ones((1, 64), np.float32), np.zeros((9, 64), np.float32)):
        np.testing.assert_array_equal(round_int4(weight, 32, rows=rows).values, round_int4(weight, 32).values)


def test_rows_that_do_not_fit_are_refused() -> None:
    weight = random_weight(64, 10)
    with pytest.raises(QuantizationError, match=r"have shape \(5, 63\): \(rows, 64\) fits the weight"):
        round_int4(weight, 32, rows=np.ones((5, 63), np.float32))
    with pytest.raises(
        QuantizationError, match="the sampled inputs of o_proj hold NaN or infinity: calibrate again"
    ):
        round_int8(weight, rows=np.full((5, 64), np.nan, np.float32), name="o_proj")
