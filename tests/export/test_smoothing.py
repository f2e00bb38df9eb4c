"""Smoothing: exact where it is folded, and only as strong as it pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decoder_prompts import random_prompts, tiny_decoder
from quantized_decoder import Seen, folded_weights

from neo_edge.bundle import Bundle
from neo_edge.errors import QuantizationError
from neo_edge_calibration.statistics import GroupStatistics
from neo_edge_export.quantization.product_simulation import Activations, InputStatistics, rounded_rows
from neo_edge_export.quantization.smoothing import fold_places, folds, search_smoothing
from neo_edge_export.quantization.weight_rounding import round_int4, round_int8

MODES: tuple[Activations, ...] = ("tensor", "token", "float")


def seen(rows: np.ndarray) -> Seen:
    return Seen(len(rows), np.abs(rows).max(axis=0), np.square(rows).mean(axis=0), rows)


def random_rows(count: int = 128, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def random_weights(width: int = 96) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal((width, outputs), np.float32) for outputs in (40, 700)]


def test_calibration_statistics_are_what_the_search_takes() -> None:
    def takes(_: InputStatistics) -> None: ...

    assert {"rows_seen", "channel_amax", "channel_mean_square", "rows"} <= set(
        GroupStatistics.__annotations__
    )
    takes(seen(random_rows()))


def test_every_product_of_a_decoder_has_one_place(tiny_bundle: Bundle) -> None:
    graph = tiny_decoder(tiny_bundle)
    named = [weight for place in graph.places for weight in place.weights]
    assert sorted(named) == sorted(graph.inputs)
    for place in graph.places:
        assert {graph.inputs[weight] for weight in place.weights} == {graph.inputs[place.weights[0]]}
        assert all(len(graph.weights[weight]) == len(place.channels) for weight in place.weights)
        assert graph.weights[place.into].shape[-1] == place.channels.max() + 1


@pytest.mark.parametrize(
    "group", ["attention_input", "attention_output", "mlp_input", "mlp_output", "head_input", ""]
)
def test_a_smoothed_float_model_computes_the_same_logits(tiny_bundle: Bundle, group: str) -> None:
    """Scales from 1/8 to 8 in every place, or in one kind; the tolerance is float32's own over three layers."""
    graph = tiny_decoder(tiny_bundle)
    prompts = random_prompts(tiny_bundle, 2)
    rng = np.random.default_rng(0)
    scales = {
        place.group: np.exp2(rng.uniform(-3, 3, place.channels.max() + 1)).astype(np.float32)[place.channels]
        for place in graph.places
        if place.group.endswith(group)
    }
    assert scales
    smoothed = graph.logits(prompts, folded_weights(graph.weights, folds(graph.places, scales)))
    for found, expected in zip(smoothed, graph.logits(prompts), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_query_heads_that_share_a_value_head_share_scales(tiny_bundle: Bundle) -> None:
    config = tiny_bundle.manifest.model.decoder  # 4 query heads, 2 value heads of 16
    place = next(place for place in fold_places(config) if place.group == "layers.1.attention_output")
    heads = place.channels.reshape(4, 16)
    np.testing.assert_array_equal(heads[0], heads[1])
    np.testing.assert_array_equal(heads[2], heads[3])
    np.testing.assert_array_equal(np.unique(place.channels), np.arange(32))
    rows = random_rows(width=64) * np.repeat([1, 30, 1, 1], 16).astype(np.float32)
    found = search_smoothing(seen(rows), random_weights(64), activations="token", channels=place.channels)
    assert found.alpha > 0
    np.testing.assert_array_equal(found.scales.reshape(4, 16)[0], found.scales.reshape(4, 16)[1])


@pytest.mark.parametrize("mode", MODES)
def test_even_inputs_are_left_alone_or_gain_little(mode: Activations) -> None:
    rows = np.random.default_rng(0).choice([-1.0, 1.0], (128, 96)).astype(np.float32)
    found = search_smoothing(seen(rows), random_weights(), activations=mode)
    assert found.error <= found.plain_error
    if found.alpha == 0:
        np.testing.assert_array_equal(found.scales, 1)
    assert found.error >= 0.8 * found.plain_error


@pytest.mark.parametrize("mode", MODES[:2])
def test_an_outlier_channel_is_moved_into_the_weights(mode: Activations) -> None:
    rows = random_rows()
    rows[:, [3, 50]] *= 60
    weights = random_weights()
    for weight in weights:
        weight[[3, 50]] /= 30
    found = search_smoothing(seen(rows), weights, activations=mode)
    assert found.alpha > 0
    assert found.error < 0.05 * found.plain_error
    # The same on rows that the search has not seen, with all columns and the errors made by hand.
    unseen = random_rows(seed=9)
    unseen[:, [3, 50]] *= 60
    for weight in weights:
        expected = unseen @ weight
        errors = []
        for scales, clip in (
            (np.ones(96, np.float32), float(np.abs(rows).max())),
            (found.scales, found.clip),
        ):
            x = rounded_rows(unseen / scales, mode, clip)
            errors.append(np.square(x @ round_int8(weight * scales[:, None]).dequantized() - expected).mean())
        assert errors[1] < 0.06 * errors[0]


def test_int4_weights_alone_gain_from_inputs_that_differ() -> None:
    rows = random_rows() * np.exp(1.5 * np.random.default_rng(1).normal(size=96)).astype(np.float32)
    weights = random_weights()
    found = search_smoothing(seen(rows), weights, activations="float", group_size=32)
    assert found.clip is None
    assert 0 < found.alpha <= 1
    errors = [
        np.square(
            rows
            / s
            @ round_int4(
                weights[1] * s[:, None], 32, importance=np.square(rows / s).mean(axis=0)
            ).dequantized()
            - rows @ weights[1]
        ).mean()
        for s in (np.ones(96, np.float32), found.scales)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_fixed_scale_clips_a_token_that_is_rare_enough() -> None:
    rows = random_rows()
    token = np.abs(random_rows(1, seed=3))[0] * 10
    amax = np.maximum(np.abs(rows).max(axis=0), token)
    for rows_seen, clipped in ((200, False), (10_000_000, True)):
        clip, largest = clip_and_largest(replace(seen(rows), rows_seen=rows_seen, channel_amax=amax))
        assert (clip < 0.7 * largest) == clipped


def test_a_fixed_scale_leaves_room_for_what_few_rows_have_not_shown() -> None:
    """Rows from a heavy tail, as few as a short calibration has: the room pays on rows that come later."""
    rng = np.random.default_rng(0)
    rows, later = (
        rng.laplace(size=(150, 96)).astype(np.float32),
        rng.laplace(size=(5000, 96)).astype(np.float32),
    )
    found = search_smoothing(seen(rows), random_weights(), activations="tensor")
    assert found.clip is not None
    largest = float(np.abs(rows / found.scales).max())
    assert found.clip > largest

    def later_error(clip: float) -> float:
        off = rounded_rows(later / found.scales, "tensor", clip) - later / found.scales
        return float(np.square(off * found.scales).mean())

    assert later_error(found.clip) < 0.7 * later_error(largest)


def clip_and_largest(statistics: Seen) -> tuple[float, float]:
    found = search_smoothing(statistics, random_weights(), activations="tensor")
    assert found.clip is not None
    return found.clip, float((statistics.channel_amax / found.scales).max())


def test_dead_channels_and_dead_groups_are_survived() -> None:
    rows = random_rows()
    rows[:, 10] = 0
    for mode in MODES:
        found = search_smoothing(seen(rows), random_weights(), activations=mode)
        assert np.all(found.scales > 1e-3)
        nothing = search_smoothing(seen(np.zeros_like(rows)), random_weights(), activations=mode)
        assert nothing.alpha == 0


def test_statistics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        QuantizationError, match="head: statistics of 128 rows of 96 channels do not fit weights of 64"
    ):
        search_smoothing(seen(random_rows()), random_weights(64), activations="token", name="head")
    rows = random_rows()
    rows[3, 3] = np.nan
    with pytest.raises(QuantizationError, match="activations or weights hold NaN or infinity"):
        search_smoothing(replace(seen(random_rows()), rows=rows), random_weights(), activations="token")
