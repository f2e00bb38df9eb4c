"""What is known of the inputs of each product: calibration's rows, how they are smoothed, where they are clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from neo_edge.config import DecoderConfig
from neo_edge.errors import QuantizationError
from neo_edge_calibration.statistics import CalibrationStatistics, GroupStatistics
from neo_edge_export.quantization.float_graph import FloatGraph, Product
from neo_edge_export.quantization.fold import NO_FOLD, Fold
from neo_edge_export.quantization.groups import activation_group
from neo_edge_export.quantization.product_simulation import Activations
from neo_edge_export.quantization.recipe import LayerRule, Recipe, Scheme
from neo_edge_export.quantization.smoothing import fold_places, folds, search_smoothing

Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]

ACTIVATIONS: Mapping[Scheme, Activations] = {
    "w8a8-token": "token",
    "w8a8-tensor": "tensor",
}  # the rest: float


@dataclass(frozen=True)
class GroupInputs:
    """The inputs of one variant's products; empty without calibration."""

    statistics: Mapping[str, GroupStatistics] = field(default_factory=dict)  # by group
    scales: Mapping[str, Vector] = field(
        default_factory=dict
    )  # [K] by smoothed group: inputs are divided by them
    clips: Mapping[str, float] = field(
        default_factory=dict
    )  # by group: magnitude, after smoothing, that becomes 127
    folds: Mapping[str, Fold] = field(default_factory=dict)  # by weight, of products and norms
    strengths: Mapping[str, float] = field(default_factory=dict)  # by smoothed group, 0 to 1

    def fold(self, weight: str) -> Fold:
        """What a weight is multiplied by before it is rounded."""
        return self.folds.get(weight, NO_FOLD)

    def rows(self, product: Product) -> Matrix | None:
        """[R, K] inputs of a product as its quantized graph has them, before they are rounded."""
        group = activation_group(product)
        if group not in self.statistics:
            return None
        rows = self.statistics[group].rows.astype(np.float32)
        return rows / self.scales[group] if group in self.scales else rows

    def importance(self, product: Product) -> Vector | None:
        """[K] mean square of each input of a product."""
        group = activation_group(product)
        if group not in self.statistics:
            return None
        square: Vector = self.statistics[group].channel_mean_square
        if group in self.scales:
            return (square / np.square(self.scales[group])).astype(np.float32)
        return square

    def clip(self, product: Product) -> float:
        """The magnitude that becomes 127 where there is one scale per tensor."""
        return self.clips[activation_group(product)]


def plan_inputs(
    graphs: Mapping[str, FloatGraph],
    config: DecoderConfig,
    recipe: Recipe,
    rules: Mapping[str, LayerRule],
    statistics: CalibrationStatistics | None,
) -> GroupInputs:
    """Searches the smoothing and the clipping of every group.

    Args:
        graphs: `decoder` and `vision`.
        config: of the decoder.
        recipe: which groups are smoothed, and how ranges are found where none is.
        rules: by product, what becomes of it.
        statistics: of calibration, if there is one.

    Raises:
        QuantizationError: the statistics lack a group, or do not fit the weights.
    """
    if statistics is None:
        return GroupInputs()
    products: dict[str, list[tuple[FloatGraph, Product]]] = {}
    for graph in graphs.values():
        for product in graph.products:
            products.setdefault(activation_group(product), []).append((graph, product))
    missing = sorted(set(products) - set(statistics.groups))
    if missing:
        raise QuantizationError(
            f"the calibration has no statistics of {', '.join(missing[:3])}: run neo-edge calibrate on this bundle"
        )
    places = {place.group: place for place in fold_places(config)}
    scales: dict[str, Vector] = {}
    clips: dict[str, float] = {}
    strengths: dict[str, float] = {}
    for group, members in products.items():
        rounded = [(graph, product) for graph, product in members if rules[product.name].scheme != "float"]
        if not rounded:
            continue
        found, rule = statistics.groups[group], rules[rounded[0][1].name]
        if recipe.smooths(group) and group in places:
            smoothing = search_smoothing(
                found,
                [graph.weight(product) for graph, product in rounded],
                activations=ACTIVATIONS.get(rule.scheme, "float"),
                group_size=rule.group_size,
                channels=places[group].channels,
                name=group,
            )
            strengths[group] = smoothing.alpha
            if smoothing.alpha:
                scales[group] = smoothing.scales
            if smoothing.clip is not None:
                clips[group] = smoothing.clip
        if group not in clips and group in scales:  # as weights of another scheme on the same input wanted it
            clips[group] = found.smoothed(scales[group], recipe.range_method)
        elif group not in clips:
            clips[group] = found.range(recipe.range_method)
    used = {group: place for group, place in places.items() if group in scales}
    return GroupInputs(statistics.groups, scales, clips, folds(tuple(used.values()), scales), strengths)
