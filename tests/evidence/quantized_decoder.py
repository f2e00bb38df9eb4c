"""A float decoder graph whose products are computed as a quantized one would: rounded weights, rounded inputs.

Independent of the graphs that `neo-edge quantize` writes: float operators do the rounding, so what is measured is
the arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from neo_edge.config import DecoderConfig
from neo_edge_export.quantization.fold import Fold
from neo_edge_export.quantization.smoothing import (
    Activations,
    FoldPlace,
    Smoothing,
    fold_places,
    folds,
    search_smoothing,
)
from neo_edge_export.quantization.weight_rounding import round_int4, round_int8

Matrix = npt.NDArray[np.float32]
Weights = dict[str, Matrix]


@dataclass(frozen=True)
class Prompt:
    """What the decoder reads in one prefill."""

    embeds: Matrix  # [S, hidden]
    position_ids: npt.NDArray[np.int32]  # [3, S]
    visible_length: npt.NDArray[np.int32]  # [S]


@dataclass(frozen=True)
class Seen:
    """Statistics of one group of activations."""

    rows_seen: int
    channel_amax: Matrix
    channel_mean_square: Matrix
    rows: Matrix


@dataclass(frozen=True)
class Recipe:
    """How products are computed."""

    activations: Activations
    group_size: int | None = None  # of int4 weights; None: int8
    smooth: bool = False
    compensate: bool = False


class DecoderGraph:
    """A written decoder of the modern profile in float32."""

    def __init__(self, path: Path, config: DecoderConfig) -> None:
        self.config = config
        self.model = onnx.load(path)
        self.weights: Weights = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer
        }
        self.places = fold_places(config)
        self.inputs = {
            node.input[1]: node.input[0] for node in self.model.graph.node if node.op_type == "MatMul"
        }

    def logits(self, prompts: Sequence[Prompt], weights: Mapping[str, Matrix] | None = None) -> list[Matrix]:
        """[S, vocab] of each prompt."""
        return self._run(self.changed(weights or {}), ["logits"], prompts)["logits"]

    def statistics(
        self, prompts: Sequence[Prompt], weights: Mapping[str, Matrix], *, rows: int = 128
    ) -> dict[str, Seen]:
        """Of every group, with a seeded sample of rows."""
        tensors = {place.group: self.inputs[place.weights[0]] for place in self.places}
        found = self._run(
            self.changed(weights, outputs=list(tensors.values())), list(tensors.values()), prompts
        )
        rng = np.random.default_rng(0)
        seen = {}
        for group, tensor in tensors.items():
            every = np.concatenate([x.reshape(-1, x.shape[-1]) for x in found[tensor]])
            sample = rng.choice(len(every), min(rows, len(every)), replace=False)
            square = np.square(every, dtype=np.float64).mean(axis=0).astype(np.float32)
            seen[group] = Seen(len(every), np.abs(every).max(axis=0), square, every[sample])
        return seen

    def norm_inputs(self, prompts: Sequence[Prompt]) -> dict[str, Matrix]:
        """[rows, hidden] of every norm before products, by the name of its weight."""
        into = {place.into for place in self.places}
        found = {}
        for node in self.model.graph.node:
            if node.op_type == "RMSNormalization" and node.input[1] in into:
                found[node.input[1]] = node.input[0]
        # An input of the graph cannot be an output of it, too.
        tensors = [name for name in found.values() if name != "inputs_embeds"]
        values = self._run(self.changed({}, outputs=tensors), tensors, prompts)
        values["inputs_embeds"] = [prompt.embeds for prompt in prompts]
        return {weight: np.concatenate(values[name]) for weight, name in found.items()}

    def quantized_logits(
        self, prompts: Sequence[Prompt], weights: Weights, seen: Mapping[str, Seen], recipe: Recipe
    ) -> tuple[list[Matrix], dict[str, Smoothing]]:
        """[S, vocab] of each prompt with rounded products, and how each group was smoothed."""
        found = {
            place.group: self._search(place, weights, seen[place.group], recipe) for place in self.places
        }
        scales = {group: smoothing.scales for group, smoothing in found.items()} if recipe.smooth else {}
        folded = folded_weights(weights, folds(self.places, scales))
        for place in self.places:
            smooth = scales.get(place.group, np.float32(1))
            rows, importance = (
                seen[place.group].rows / smooth,
                seen[place.group].channel_mean_square / smooth**2,
            )
            for name in place.weights:
                weight = folded[name]
                folded[name] = (
                    round_int8(
                        weight, importance=importance, rows=rows if recipe.compensate else None
                    ).dequantized()
                    if recipe.group_size is None
                    else round_int4(
                        weight,
                        recipe.group_size,
                        importance=importance,
                        rows=rows if recipe.compensate else None,
                    ).dequantized()
                )
        return self._run(self.changed(folded, rounded=self._rounded(found, recipe)), ["logits"], prompts)[
            "logits"
        ], found

    def _search(self, place: FoldPlace, weights: Weights, seen: Seen, recipe: Recipe) -> Smoothing:
        chosen = [weights[name] for name in place.weights]
        options = {"activations": recipe.activations, "group_size": recipe.group_size}
        if recipe.smooth:
            return search_smoothing(seen, chosen, channels=place.channels, **options)
        # Plain int8 as everyone has it: the largest activation is the largest integer.
        ones = np.ones(len(seen.channel_amax), np.float32)
        return Smoothing(0.0, ones, float(seen.channel_amax.max()), 0.0, 0.0)

    def _rounded(self, found: Mapping[str, Smoothing], recipe: Recipe) -> dict[str, float | None]:
        """By the name of each tensor that is rounded to int8: what becomes 127, or None for a scale per token."""
        if recipe.activations == "float":
            return {}
        return {
            self.inputs[place.weights[0]]: found[place.group].clip if recipe.activations == "tensor" else None
            for place in self.places
        }

    def changed(
        self,
        weights: Mapping[str, Matrix],
        *,
        rounded: Mapping[str, float | None] | None = None,
        outputs: Sequence[str] = (),
    ) -> onnx.ModelProto:
        """The graph with other weights, with some products' inputs rounded, and with more outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        for tensor in graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
        nodes = []
        for node in list(graph.node):
            if node.op_type == "MatMul" and node.input[0] in (rounded or {}):
                node.input[0] += ".rounded"
            nodes.append(node)
            for name in node.output:
                if name in (rounded or {}):
                    nodes += _rounding(name, (rounded or {})[name], graph)
        del graph.node[:]
        graph.node.extend(nodes)
        graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
        )
        return model

    def _run(
        self, model: onnx.ModelProto, outputs: list[str], prompts: Sequence[Prompt]
    ) -> dict[str, list[Matrix]]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: dict[str, list[Matrix]] = {name: [] for name in outputs}
        for prompt in prompts:
            length, config = len(prompt.embeds), self.config
            feeds = {
                "inputs_embeds": prompt.embeds[None],
                "position_ids": prompt.position_ids[None],
                "visible_length": prompt.visible_length[None],
                "write_index": np.zeros(1, np.int32),
                "logits_index": np.arange(length, dtype=np.int32)[None],
            }
            for layer in range(config.num_layers):
                for name, width in (("key_cache", config.key_dim), ("value_cache", config.head_dim)):
                    shape = (1, config.num_kv_heads, length, width)
                    feeds[f"{name}.{layer}"] = np.zeros(shape, np.float32)
            for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
                found[name].append(value[0])
        return found


def folded_weights(weights: Weights, folding: Mapping[str, Fold]) -> Weights:
    """All weights, multiplied by what smoothing moves."""
    folded = dict(weights)
    for name, fold in folding.items():
        folded[name] = fold.apply(weights[name], slice(None))
    return folded


def mean_squared_error(found: Sequence[Matrix], expected: Sequence[Matrix]) -> float:
    """Of all numbers of all prompts."""
    return float(np.mean(np.square(np.concatenate(found) - np.concatenate(expected), dtype=np.float64)))


def _rounding(name: str, clip: float | None, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """`name` to int8 and back as `name`.rounded."""

    def constant(kind: str, value: float) -> str:
        array = np.array(value, np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{kind}"))
        return f"{name}.{kind}"

    if clip is not None:
        zero = numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero")
        graph.initializer.append(zero)
        step = constant("step", clip / 127)
        return [
            helper.make_node("QuantizeLinear", [name, step, zero.name], [f"{name}.int8"]),
            helper.make_node("DequantizeLinear", [f"{name}.int8", step, zero.name], [f"{name}.rounded"]),
        ]
    axes = numpy_helper.from_array(np.array([-1], np.int64), f"{name}.axes")
    graph.initializer.append(axes)
    return [
        helper.make_node("Abs", [name], [f"{name}.abs"]),
        helper.make_node("ReduceMax", [f"{name}.abs", axes.name], [f"{name}.amax"]),
        helper.make_node("Max", [f"{name}.amax", constant("least", 1e-30)], [f"{name}.reach"]),
        helper.make_node("Div", [f"{name}.reach", constant("127", 127)], [f"{name}.token_step"]),
        helper.make_node("Div", [name, f"{name}.token_step"], [f"{name}.steps"]),
        helper.make_node("Round", [f"{name}.steps"], [f"{name}.whole"]),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.token_step"], [f"{name}.rounded"]),
    ]
