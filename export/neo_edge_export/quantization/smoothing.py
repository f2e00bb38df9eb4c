"""Moves outliers of activations into weights, as far as that lowers the error of the quantized products.

An activation x [R, K] divided by scales s [K] and its weights [K, N] multiplied by them give the same products. The
division costs nothing where something before it can be divided for good: `fold_places` lists where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from neo_edge.config import DecoderConfig
from neo_edge.errors import QuantizationError
from neo_edge_export.quantization.fold import NO_FOLD, Fold
from neo_edge_export.quantization.product_simulation import (
    Activations,
    InputStatistics,
    ProductSimulation,
)

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]
Span = npt.NDArray[np.float64]  # [K] how far each input or its weights reach
Index = npt.NDArray[np.int64]

_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_FINER = 0.125
_WORTHWHILE = 0.999  # more smoothing must lower the error by this factor at least
_COLUMNS = 256  # of each weight that errors are measured on; columns are rounded one by one, so a part speaks for all


@dataclass(frozen=True)
class FoldPlace:
    """Products that share an input, and the weight before them that can take the inverse scales."""

    group: str  # of activations, as calibration names it
    weights: tuple[str, ...]  # of the products, by their names in the graph
    into: str  # a norm's weight, or the weight of a product whose outputs pass on unmixed
    channels: Index  # [K] which output of `into` each input comes from; one for each unless heads share it


@dataclass(frozen=True)
class Smoothing:
    """The scales of one group of products, and what they do to the error."""

    alpha: float  # 0: nothing is moved; 1: all inputs get the same range
    scales: Vector  # [K] that inputs are divided and rows of weights multiplied by; all 1 at alpha 0
    clip: float | None  # of activations with one scale: the magnitude (after smoothing) that becomes 127
    error: float  # mean square of the outputs' error over that of the outputs, mean of the weights
    plain_error: float  # the same without smoothing


def fold_places(config: DecoderConfig) -> tuple[FoldPlace, ...]:
    """Every group of a decoder's products that can be smoothed at no cost; the vision graph has none."""
    hidden = np.arange(config.hidden_size)
    places: list[FoldPlace] = []
    for index in range(config.num_layers):
        layer = f"layers.{index}"
        projections = ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj")
        places += [
            FoldPlace(
                f"{layer}.attention_input",
                tuple(f"{layer}.self_attn.{name}.weight" for name in projections),
                f"{layer}.input_layernorm.weight",
                hidden,
            ),
            FoldPlace(
                f"{layer}.attention_output",
                (f"{layer}.self_attn.o_proj.weight",),
                f"{layer}.self_attn.v_proj.weight",
                _value_channels(config),
            ),
            FoldPlace(
                f"{layer}.mlp_input",
                (f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight"),
                f"{layer}.post_attention_layernorm.weight",
                hidden,
            ),
            FoldPlace(
                f"{layer}.mlp_output",
                (f"{layer}.mlp.down_proj.weight",),
                f"{layer}.mlp.up_proj.weight",
                np.arange(config.intermediate_size),
            ),
        ]
    return (*places, FoldPlace("head_input", ("lm_head.weight",), "norm.weight", hidden))


def folds(places: Sequence[FoldPlace], scales: Mapping[str, Vector]) -> dict[str, Fold]:
    """What each weight is multiplied by, given the scales [K] of some groups by name."""
    found: dict[str, Fold] = {}
    for place in places:
        if place.group not in scales:
            continue
        smooth = scales[place.group]
        for weight in place.weights:
            found[weight] = replace(found.get(weight, NO_FOLD), inputs=smooth)
        inverse = np.ones(place.channels.max() + 1, np.float32)
        inverse[place.channels] = 1 / smooth
        found[place.into] = replace(found.get(place.into, NO_FOLD), outputs=inverse)
    return found


def search_smoothing(
    statistics: InputStatistics,
    weights: Sequence[npt.NDArray[np.floating]],
    *,
    activations: Activations,
    group_size: int | None = None,
    channels: Index | None = None,
    name: str = "activations",
) -> Smoothing:
    """The strength of smoothing that gives the least error of a group's products.

    Strengths are tried on the sampled rows with activations and weights rounded as they will be. No smoothing is
    among them, and less of it wins unless more is better by 0.1 %.

    Args:
        statistics: of the products' input.
        weights: [K, N] each, of any float type; memory-mapped ones are read in part.
        activations: "token" (int8, a scale per row found in the run), "tensor" (int8, one fixed scale, whose
            clipping is searched, too) or "float".
        group_size: of int4 weights; None: int8 with a scale per output.
        channels: `FoldPlace.channels`; inputs with the same number get the same scale.
        name: of the group, for errors.

    Raises:
        QuantizationError: shapes do not fit, or the statistics hold no rows, NaN or infinity.
    """
    sampled = [_sampled_columns(weight) for weight in weights]
    _check(statistics, sampled, name)
    tie = np.arange(len(statistics.channel_amax)) if channels is None else channels
    simulation = ProductSimulation(statistics, sampled, activations, group_size)
    plain = best = simulation.measure(0.0, np.ones(len(tie), np.float32))
    reach = [
        _reach(vector, tie) for vector in (statistics.channel_amax, np.sqrt(statistics.channel_mean_square))
    ]
    weight_reach = _reach(np.max([np.abs(weight).max(axis=1) for weight in sampled], axis=0), tie)
    best_shape = (reach[0], 0.0)
    for alpha in _STRENGTHS:
        for shape in _shapes(reach, alpha):
            found = simulation.measure(alpha, _scales(*shape, weight_reach, alpha))
            if found.error < _WORTHWHILE * best.error:
                best, best_shape = found, shape
    if best.alpha:
        span, _ = best_shape
        for alpha in (best.alpha - _FINER, min(best.alpha + _FINER, 1.0)):
            balance = min(alpha, 1 - alpha) if best_shape[1] else 0.0
            found = simulation.measure(alpha, _scales(span, balance, weight_reach, alpha))
            if found.error < _WORTHWHILE * best.error:
                best = found
    return Smoothing(best.alpha, best.scales, best.clip, best.error, plain.error)


def _shapes(reach: Sequence[Span], alpha: float) -> Iterator[tuple[Span, float]]:
    """By how far an input reaches alone, and balanced against its weights (SmoothQuant has 1 - alpha there)."""
    for span in reach:
        yield span, 0.0
        if alpha < 1:
            yield span, min(alpha, 1 - alpha)


def _scales(reach: Span, balance: float, weight_reach: Span, alpha: float) -> Vector:
    """[K] positive, their geometric mean 1."""
    logarithm = alpha * np.log(reach) - balance * np.log(weight_reach)
    scales: Vector = np.exp(logarithm - logarithm.mean()).astype(np.float32)
    return scales


def _reach(vector: npt.NDArray[np.floating], tie: Index) -> Span:
    """[K] the largest of the channels that share a scale, and no less than a hundredth of the median.

    A channel that calibration saw at rest would else be blown up when it wakes.
    """
    largest: Span = np.zeros(tie.max() + 1)
    np.maximum.at(largest, tie, vector)
    alive = largest[largest > 0]
    floor = np.median(alive) / 100 if alive.size else 1.0
    return np.maximum(largest, floor)[tie]


def _sampled_columns(weight: npt.NDArray[np.floating]) -> Matrix:
    step = -(-weight.shape[1] // _COLUMNS)
    return np.ascontiguousarray(weight[:, ::step], np.float32)


def _check(statistics: InputStatistics, weights: Sequence[Matrix], name: str) -> None:
    inputs = statistics.rows.shape[1] if statistics.rows.ndim == 2 else 0
    shapes = {len(weight) for weight in weights} | {
        len(statistics.channel_amax),
        len(statistics.channel_mean_square),
    }
    if not weights or shapes != {inputs} or not len(statistics.rows):
        raise QuantizationError(
            f"{name}: statistics of {len(statistics.rows)} rows of {inputs} channels do not fit weights of "
            f"{', '.join(str(len(weight)) for weight in weights)} inputs: calibrate this very bundle"
        )
    for figures in (statistics.rows, statistics.channel_amax, statistics.channel_mean_square, *weights):
        if not np.isfinite(figures).all():
            raise QuantizationError(
                f"{name}: activations or weights hold NaN or infinity: check the checkpoint, then calibrate again"
            )


def _value_channels(config: DecoderConfig) -> Index:
    """[heads * d]: query heads that share a value head share its channels, too."""
    group = config.num_heads // config.num_kv_heads
    channels: Index = np.arange(config.num_kv_heads * config.head_dim).reshape(-1, 1, config.head_dim)
    return np.repeat(channels, group, axis=1).reshape(-1)
