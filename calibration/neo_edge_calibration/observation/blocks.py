"""Cuts a written decoder graph into its layers, each of which hands out what feeds its products.

A block is a graph of its own that takes the hidden states of the layer below. It is cut by names, holds no
weights, and reads those of the variant where they lie. Both profiles and both float types are cut alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neo_edge.errors import CalibrationError
from neo_edge.extras import require

# Products that share an input share a group; the first part of the key is the graph's name for the weight.
_LAYER_GROUPS: Mapping[str, str] = {
    **dict.fromkeys(("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj"), "attention_input"),
    "o_proj": "attention_output",
    **dict.fromkeys(("gate_proj", "up_proj"), "mlp_input"),
    "down_proj": "mlp_output",
}
_VISION_GROUPS = {"patch_embedding.weight": "vision.patches", "dense_embedding.weight": "vision.merged"}
_HEAD_WEIGHT = "lm_head.weight"
_LAYER_WEIGHT = re.compile(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.weight")
_FIRST_CACHE = re.compile(r"(key|value)_cache\.0")


@dataclass(frozen=True)
class Observed:
    """One group of a block."""

    group: str  # its name in the statistics
    value: str  # its name in the graph
    weights: tuple[str, ...]  # initializers that it is multiplied with


@dataclass(frozen=True)
class Block:
    """A piece of a graph."""

    graph: bytes  # an ONNX model without weights
    folder: Path  # where its weights lie
    inputs: tuple[str, ...]  # names; all but the hidden states are called as in the graph contract
    hidden_input: str | None  # name of the hidden states that go in
    output: str | None  # name of the hidden states, or of the visual tokens, that come out
    observed: tuple[Observed, ...]

    @property
    def output_names(self) -> list[str]:
        """What a run is to give: the observed values that are no inputs, then the output."""
        values = [observed.value for observed in self.observed if observed.value not in self.inputs]
        return values if self.output is None else [*values, self.output]


class DecoderGraph:
    """A decoder graph that was read without its weights."""

    def __init__(self, path: Path) -> None:
        """Raises `CalibrationError` when this is no decoder graph that neo_edge exported in a float precision."""
        self._graph = _Graph(path)
        self._path = path
        found: dict[int, str] = {}
        for node in self._graph.nodes:
            match = re.match(r"layers\.(\d+)\.input_layernorm\.", node.name)
            if match:
                found.setdefault(int(match[1]), node.input[0])
        gather = [node for node in self._graph.nodes if node.op_type == "GatherND"]
        if sorted(found) != list(range(len(found))) or not found or len(gather) != 1:
            raise _foreign(path)
        # What goes into each layer, and last what comes out of the last one.
        self._residuals = [found[layer] for layer in range(len(found))] + [gather[0].input[0]]

    @property
    def num_layers(self) -> int:
        """How many blocks `layer` knows."""
        return len(self._residuals) - 1

    def layer(self, index: int) -> Block:
        """One decoder layer; `key_cache.{index}` and `value_cache.{index}` are among its inputs."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for weight, value in self._graph.products():
            match = _LAYER_WEIGHT.fullmatch(weight)
            if match and int(match[1]) == index and match[2] in _LAYER_GROUPS:
                groups.setdefault(_LAYER_GROUPS[match[2]], []).append((weight, value))
        observed = [
            Observed(
                f"layers.{index}.{name}", _one_value(self._path, pairs), tuple(weight for weight, _ in pairs)
            )
            for name, pairs in groups.items()
        ]
        if len(observed) != len(set(_LAYER_GROUPS.values())):
            raise _foreign(self._path)
        return self._graph.cut(
            observed, self._residuals[index], self._residuals[index + 1], cache_layer=index
        )

    def head(self) -> Block:
        """From the last hidden states to what goes into the head; no logits are made."""
        values = [value for weight, value in self._graph.products() if weight == _HEAD_WEIGHT]
        if len(values) != 1:
            raise _foreign(self._path)
        return self._graph.cut(
            [Observed("head_input", values[0], (_HEAD_WEIGHT,))], self._residuals[-1], None
        )

    def logits(self) -> Block:
        """From the last hidden states to the logits."""
        return self._graph.cut([], self._residuals[-1], "logits")


def vision_block(path: Path) -> Block:
    """The whole vision graph, observed; raises `CalibrationError` as `DecoderGraph`."""
    graph = _Graph(path)
    found = {weight: value for weight, value in graph.products() if weight in _VISION_GROUPS}
    if found.keys() != _VISION_GROUPS.keys():
        raise _foreign(path)
    observed = [Observed(_VISION_GROUPS[weight], value, (weight,)) for weight, value in found.items()]
    return graph.cut(observed, None, "visual_tokens")


class _Graph:
    """An ONNX graph and where its values come from; onnx is untyped here."""

    def __init__(self, path: Path) -> None:
        onnx = require("onnx", extra="calibrate")
        protobuf = require("google.protobuf.message", extra="calibrate")
        try:
            self._model: Any = onnx.load(str(path), load_external_data=False)
        except (OSError, protobuf.DecodeError) as error:
            raise CalibrationError(
                f"{path} cannot be read as a graph ({error}): copy or export again"
            ) from error
        self._onnx, self._path = onnx, path
        self.nodes: Sequence[Any] = self._model.graph.node
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._inputs = {value.name: value for value in self._model.graph.input}
        self._makers = {output: node for node in self.nodes for output in node.output}

    def products(self) -> Iterable[tuple[str, str]]:
        """Weight and other factor of each matrix product with a weight."""
        return (
            (node.input[1], node.input[0])
            for node in self.nodes
            if node.op_type == "MatMul" and node.input[1] in self._weights
        )

    def cut(
        self, observed: Sequence[Observed], hidden: str | None, output: str | None, cache_layer: int = 0
    ) -> Block:
        """What leads to the observed values and the output, from `hidden` on."""
        onnx = self._onnx
        wanted = [item.value for item in observed] + ([] if output is None else [output])
        nodes, leaves = self._behind(wanted, stop=hidden)
        # The mask takes the capacity from the first layer's cache.
        names = {leaf: _FIRST_CACHE.sub(rf"\1_cache.{cache_layer}", leaf) for leaf in leaves}
        copied = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [names.get(name, name) for name in node.input]
            copied.append(copy)
        inputs, kinds = [], onnx.TensorProto
        for leaf in sorted({name for name in names.values() if name not in self._weights}):
            if leaf == hidden and leaf not in self._inputs:
                inputs.append(onnx.helper.make_tensor_value_info(leaf, kinds.FLOAT, None))
            else:
                inputs.append(self._inputs[leaf])
        types = {item.value: self._weights[item.weights[0]].data_type for item in observed}
        # A runtime takes no input for an output.
        outputs = [
            onnx.helper.make_tensor_value_info(value, types.get(value, self._type(value)), None)
            for value in wanted
            if value not in self._inputs
        ]
        graph = onnx.helper.make_graph(
            copied,
            "block",
            inputs,
            outputs,
            [self._weights[leaf] for leaf in sorted(leaves) if leaf in self._weights],
        )
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.ClearField("graph")
        model.graph.CopyFrom(graph)
        return Block(
            graph=model.SerializeToString(),
            folder=self._path.parent,
            inputs=tuple(value.name for value in inputs),
            hidden_input=hidden,
            output=output,
            observed=tuple(observed),
        )

    def _behind(self, wanted: Sequence[str], *, stop: str | None) -> tuple[list[Any], set[str]]:
        """The nodes that make these values, in the graph's order, and the values that none of them makes."""
        pending, made, leaves = list(wanted), set(), set()
        while pending:
            value = pending.pop()
            if value in made or value in leaves or not value:
                continue
            node = None if value == stop else self._makers.get(value)
            if node is None:
                leaves.add(value)
            else:
                made.add(value)
                pending += node.input
        return [node for node in self.nodes if made.intersection(node.output)], leaves

    def _type(self, value: str) -> int:
        declared = [output for output in self._model.graph.output if output.name == value]
        return int(declared[0].type.tensor_type.elem_type if declared else self._onnx.TensorProto.FLOAT)


def _one_value(path: Path, pairs: Sequence[tuple[str, str]]) -> str:
    values = {value for _, value in pairs}
    if len(values) != 1:
        raise _foreign(path)
    return values.pop()


def _foreign(path: Path) -> CalibrationError:
    return CalibrationError(
        f"{path} is not built like the float graphs that neo-edge export writes: choose such a variant with "
        "--variant, or export one"
    )
