"""Cuts a written decoder graph down to a few of its layers, so that large models can be checked piece by piece.

The cut graph is a whole decoder of fewer layers that reads the same external data: the input of its first
layer is the embedding, and the output of its last goes into the final norm.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from neo_edge.config import ModelConfig


def window_config(config: ModelConfig, layers: range) -> ModelConfig:
    """The config of a model that has only these layers."""
    return replace(config, decoder=replace(config.decoder, num_layers=len(layers)))


def cut_decoder(path: Path, layers: range, cut: Path) -> None:
    """Writes a decoder of `layers` alone, numbered from 0.

    Args:
        path: a decoder graph that this package wrote.
        layers: which of its layers to keep, neighbours.
        cut: the new graph; must stand beside `path`, whose external data it reads.
    """
    model = ir.load(path)
    graph = model.graph
    residuals = _residuals(graph)
    last = residuals[layers.stop]
    if layers.start:
        residuals[layers.start].replace_all_uses_with(residuals[0])
        # The mask takes the capacity from the first layer's cache.
        caches = {value.name: value for value in graph.inputs}
        caches["key_cache.0"].replace_all_uses_with(caches[f"key_cache.{layers.start}"])
    _logits_rows(graph).replace_input_with(0, last)
    _renumber(graph.outputs, layers)
    RemoveUnusedNodesPass()(model)
    _renumber(graph.inputs, layers)
    ir.save(model, cut)


def _residuals(graph: ir.Graph) -> list[ir.Value]:
    """What goes into each layer, and last what comes out of the last one."""
    values: list[ir.Value] = []
    for node in graph:
        if str(node.name).startswith(f"layers.{len(values)}.input_layernorm."):
            assert node.inputs[0] is not None
            values.append(node.inputs[0])
    last = _logits_rows(graph).inputs[0]
    assert last is not None
    return [*values, last]


def _logits_rows(graph: ir.Graph) -> ir.Node:
    return next(node for node in graph if node.op_type == "GatherND")


def _renumber(ports: MutableSequence[ir.Value], layers: range) -> None:
    """Drops the caches of other layers and counts those that stay from 0."""
    for port in list(ports):
        name, _, layer = str(port.name).rpartition(".")
        if layer.isdigit():
            if int(layer) in layers:
                port.name = f"{name}.{int(layer) - layers.start}"
            else:
                ports.remove(port)
