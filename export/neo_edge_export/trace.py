"""Traces the lowered modules on the meta device: no weight exists while a graph is made, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from neo_edge.config import DecoderConfig, ModelConfig
from neo_edge.manifest import OpsProfile
from neo_edge_export import dimensions, graph_contract
from neo_edge_export.graph_contract import FLOAT, Port, Precision
from neo_edge_export.lowered import LoweredDecoder, LoweredVision
from neo_edge_export.translate import translate

_DTYPE = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.INT32: torch.int32,
}
# An example size for each open dimension: none is 0 or 1, which a trace would take as fixed.
_EXAMPLE = {
    dimensions.BATCH: 2,
    dimensions.SEQUENCE: 3,
    dimensions.CAPACITY: 5,
    dimensions.LOGITS_ROWS: 7,
    dimensions.PATCHES: 16,
}


class VisionTrace:
    """The traced patch embedding; translates to the same graph in both profiles but for its rotary embedding."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        self._config = config
        self._precision: Precision = precision
        self._inputs = graph_contract.vision_inputs(config)
        with torch.device("meta"):
            module = LoweredVision(config, _DTYPE[FLOAT[precision]])
        examples, open_dims = _examples(self._inputs), _open_dims(self._inputs)
        self._program = torch.export.export(module.eval(), tuple(examples), dynamic_shapes=tuple(open_dims))

    def graph(self, ops: OpsProfile) -> ir.Model:
        """The ONNX graph, weights without values."""
        outputs = graph_contract.vision_outputs(self._config, self._precision)
        return translate(self._program, ops, inputs=self._inputs, outputs=outputs)


class DecoderTrace:
    """The traced decoder, from which both profiles are translated."""

    def __init__(self, config: DecoderConfig, precision: Precision) -> None:
        self._config = config
        self._precision: Precision = precision
        self._inputs = graph_contract.decoder_inputs(config, precision)
        with torch.device("meta"):
            module = LoweredDecoder(config, _DTYPE[FLOAT[precision]])
        examples, open_dims = _examples(self._inputs), _open_dims(self._inputs)
        caches = next(index for index, port in enumerate(self._inputs) if port.name == "key_cache.0")
        self._program = torch.export.export(
            module.eval(),
            (*examples[:caches], examples[caches:]),
            dynamic_shapes=(*open_dims[:caches], open_dims[caches:]),
        )

    def graph(self, ops: OpsProfile) -> ir.Model:
        """The ONNX graph, weights without values."""
        outputs = graph_contract.decoder_outputs(self._config, self._precision, ops)
        return translate(self._program, ops, inputs=self._inputs, outputs=outputs)


def _examples(ports: Sequence[Port]) -> list[Tensor]:
    shapes = [[_EXAMPLE[dim] if isinstance(dim, str) else dim for dim in port.dims] for port in ports]
    return [
        torch.empty(shape, dtype=_DTYPE[port.dtype], device="meta")
        for shape, port in zip(shapes, ports, strict=True)
    ]


def _open_dims(ports: Sequence[Port]) -> list[dict[int, object]]:
    return [
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(port.dims) if isinstance(dim, str)}
        for port in ports
    ]
