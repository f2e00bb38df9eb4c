"""Weights as int8 and int4: errors that follow from the steps, searched scales, and weights that are refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization.weight_rounding import RoundedInt4, RoundedInt8, round_int4, round_int8

Matrix = npt.NDArray[np.float32]


def random_weight(inputs: int, outputs: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((inputs, outputs), np.float32) * np.float32(0.02)


def squared_error(
    rounded: RoundedInt8 | RoundedInt4, weight: Matrix, importance: Matrix | None = None
) -> float:
    error = np.square(rounded.dequantized() - weight)
    return float((error if importance is None else error * importance[:, None]).sum())


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
def test_int8_is_off_by_half_a_step_at_most(inputs: int, outputs: int, seed: int) -> None:
    weight = random_weight(inputs, outputs, seed)
    rounded = round_int8(weight)
    np.testing.assert_allclose(rounded.scale, np.abs(weight).max(axis=0) / 127, rtol=1e-6)
    assert np.all(np.abs(rounded.dequantized() - weight) <= rounded.scale * 0.5001)
    assert np.abs(rounded.values).max() <= 127


def test_columns_are_rounded_alike_in_any_slices() -> None:
    weight = random_weight(300, 1000)
    whole, part = round_int8(weight, clip=True), round_int8(weight[:, 400:431], clip=True)
    np.testing.assert_array_equal(whole.values[:, 400:431], part.values)
    whole4, part4 = round_int4(weight, 32), round_int4(weight[:, 400:431], 32)
    np.testing.assert_array_equal(whole4.values[:, 400:431], part4.values)
    np.testing.assert_array_equal(whole4.scale[:, 400:431], part4.scale)


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-30, -1e-42, 3e38])
def test_zero_constant_tiny_and_huge_columns_keep_their_value(value: float) -> None:
    weight = random_weight(64, 3)
    weight[:, 1] = value
    for rounded in (round_int8(weight), round_int8(weight, clip=True), round_int4(weight, 32)):
        assert np.all(rounded.scale > 0)
        assert np.isfinite(rounded.scale).all()
        np.testing.assert_allclose(rounded.dequantized()[:, 1], weight[:, 1], rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_with_the_cure(bad: float) -> None:
    weight = random_weight(64, 3)
    weight[40, 2] = bad
    message = (
        "the weight down_proj holds NaN or infinity: the checkpoint is damaged, fetch it and export it again"
    )
    with pytest.raises(QuantizationError, match=message):
        round_int8(weight, name="down_proj")
    with pytest.raises(QuantizationError, match=message):
        round_int4(weight, 32, name="down_proj")


def test_what_cannot_be_a_weight_or_a_group_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"the weight norm has shape \(8,\)"):
        round_int8(np.ones(8, np.float32), name="norm")
    with pytest.raises(
        QuantizationError, match="a group of 48 weights for weight: give one of 16, 32, 64, 128"
    ):
        round_int4(random_weight(64, 3), 48)
    with pytest.raises(QuantizationError, match=r"has shape \(3,\): \(64,\) fits the weight"):
        round_int4(random_weight(64, 3), 32, importance=np.ones(3, np.float32))
    with pytest.raises(QuantizationError, match="NaN, infinity or negative"):
        round_int8(random_weight(64, 3), clip=True, importance=np.full(64, -1, np.float32))


@pytest.mark.parametrize("group_size", [16, 32, 64, 128])
def test_int4_is_nearest_to_its_scales_and_inside_its_range(group_size: int) -> None:
    weight = random_weight(200, 9)  # 200 is no multiple of any: the last group is shorter
    rounded = round_int4(weight, group_size)
    assert rounded.scale.shape == (-(-200 // group_size), 9)
    assert rounded.values.min() >= -8
    assert rounded.values.max() <= 7
    scale = np.repeat(rounded.scale, group_size, axis=0)[:200]
    np.testing.assert_array_equal(rounded.values, np.clip(np.rint(weight / scale), -8, 7))


@pytest.mark.parametrize("group_size", [32, 128])
def test_searched_int4_scales_beat_those_that_clip_nothing(group_size: int) -> None:
    weight = random_weight(256, 64)
    groups = weight.reshape(-1, group_size, 64)
    scale = np.abs(groups).max(axis=1, keepdims=True) / 7
    plain = float(np.square(np.rint(groups / scale) * scale - groups).sum())
    assert squared_error(round_int4(weight, group_size), weight) < {32: 0.85, 128: 0.79}[group_size] * plain


def test_searched_scales_are_within_one_percent_of_an_exhaustive_search() -> None:
    weight = random_weight(32, 200)
    tried = np.abs(weight).max(axis=0) / 7 * np.linspace(0.4, 1.2, 400)[:, None]
    errors = [
        np.square(np.clip(np.rint(weight / scale), -8, 7) * scale - weight).sum(axis=0) for scale in tried
    ]
    best = float(np.min(errors, axis=0).sum())
    assert best <= squared_error(round_int4(weight, 32), weight) <= 1.01 * best


def test_importance_moves_the_error_to_inputs_that_matter_less() -> None:
    weight = random_weight(128, 50)
    importance = np.ones(128, np.float32)
    importance[::16] = 100
    plain, weighted = round_int4(weight, 128), round_int4(weight, 128, importance=importance)
    assert squared_error(weighted, weight, importance) < 0.7 * squared_error(plain, weight, importance)
    plain8 = round_int8(weight, clip=True)
    weighted8 = round_int8(weight, clip=True, importance=importance)
    assert squared_error(weighted8, weight, importance) < squared_error(plain8, weight, importance)


def test_importance_of_dead_inputs_alone_counts_as_none() -> None:
    weight = random_weight(64, 5)
    dead = round_int4(weight, 32, importance=np.zeros(64, np.float32))
    np.testing.assert_array_equal(dead.values, round_int4(weight, 32).values)


def test_clipping_pays_where_one_weight_is_far_out() -> None:
    weight = random_weight(4096, 8)
    weight[7] = 0.12
    assert squared_error(round_int8(weight, clip=True), weight) <= squared_error(round_int8(weight), weight)


@pytest.mark.parametrize("size", [1e-9, 0.02, 50.0])
def test_float16_scales_are_float16_numbers_and_the_values_fit_them(size: float) -> None:
    weight = random_weight(64, 5) / np.float32(0.02) * np.float32(size)
    for rounded in (round_int8(weight, scale_type="float16"), round_int4(weight, 32, scale_type="float16")):
        np.testing.assert_array_equal(rounded.scale, rounded.scale.astype(np.float16).astype(np.float32))
        assert np.all(rounded.scale > 0)
        bound = np.maximum(np.abs(weight).max() / 7, 6e-8) * 0.7
        assert np.abs(rounded.dequantized() - weight).max() <= bound


def test_float16_weights_and_strided_views_are_taken() -> None:
    weight = random_weight(64, 6).astype(np.float16)
    expected = round_int8(weight.astype(np.float32))
    np.testing.assert_array_equal(round_int8(weight).values, expected.values)
    turned = np.asfortranarray(weight.astype(np.float32))
    np.testing.assert_array_equal(round_int8(turned).values, expected.values)
