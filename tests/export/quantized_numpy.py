"""The numpy model of the runtime's tests with quantized products: what a quantized graph is to compute.

Its weights lie as the checkpoint has them, [out, in]. The export only reorders outputs, and every output is rounded
for itself, so the rounding must come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy_backend import Array, NumpyBackend, NumpyState

from neo_edge_export.quantization.group_inputs import GroupInputs
from neo_edge_export.quantization.groups import _OF_LAYER
from neo_edge_export.quantization.recipe import LayerRule
from neo_edge_export.quantization.weight_rounding import round_int4


class QuantizedBackend(NumpyBackend):
    """Quantizes each product by its rule; the rounding of weights is written out here, to the nearest."""

    def __init__(
        self, checkpoint: Path, rules: Mapping[str, LayerRule], inputs: GroupInputs, *, blocks: bool
    ) -> None:
        super().__init__(checkpoint)
        self.rules, self.inputs, self.blocks = rules, inputs, blocks
        step = np.abs(self.token_embedding).max(axis=1, keepdims=True) / np.float32(127)
        self.token_embedding = np.rint(self.token_embedding / step) * step

    def importance(self, group: str) -> np.ndarray:
        square = self.inputs.statistics[group].channel_mean_square
        return (square / np.square(self.inputs.scales.get(group, np.float32(1)))).astype(np.float32)

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        state = super().new_state(batch=batch, capacity=capacity)
        return QuantizedState(self, state.keys, state.values)


class QuantizedState(NumpyState):
    def _linear(self, x: Array, name: str) -> Array:
        backend = self.backend
        assert isinstance(backend, QuantizedBackend)
        short = name.removeprefix("language_model.").removeprefix("model.")
        group = group_of(short)
        smooth = backend.inputs.scales.get(group, np.ones(x.shape[-1]))
        weight = backend.weights[name + ".weight"].T * smooth[:, None]
        rule = backend.rules[f"decoder.{short}"]
        clip = backend.inputs.clips.get(group)
        return _activations(x / smooth, rule, clip, blocks=backend.blocks) @ _weight(
            weight, rule, backend.importance(group)
        )


def group_of(weight: str) -> str:
    if weight == "lm_head":
        return "head_input"
    layers, index, rest = weight.split(".", 2)
    return f"{layers}.{index}.{_OF_LAYER[rest]}"


def _activations(x: Array, rule: LayerRule, clip: float | None, *, blocks: bool) -> Array:
    if rule.scheme == "w8a8-token":
        step = np.abs(x).max(axis=-1, keepdims=True) / 127
        return np.rint(x / step) * step
    if rule.scheme == "w8a8-tensor":
        assert clip is not None
        step = clip / 127
        return np.clip(np.rint(x / step), -128, 127) * step
    if (
        rule.scheme == "w4" and blocks
    ):  # MatMulNBits with accuracy_level 4: int8 in blocks of the weight's size
        parts = x.reshape(*x.shape[:-1], -1, rule.group_size)
        step = np.abs(parts).max(axis=-1, keepdims=True) / 127
        return (np.rint(parts / step) * step).reshape(x.shape)
    return x


def _weight(weight: Array, rule: LayerRule, importance: np.ndarray) -> Array:
    if rule.scheme == "float":
        return weight
    if rule.scheme == "w4":  # a search, held to its definition in test_weight_rounding.py
        assert rule.group_size is not None
        found = round_int4(weight.astype(np.float32), rule.group_size, importance=importance)
        return found.dequantized().astype(np.float64)
    step = np.abs(weight).max(axis=0) / 127
    return np.rint(weight / step) * step
