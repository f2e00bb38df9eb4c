"""What the runtime expects of engines is what TensorRT-RTX reads from the portable graphs."""

from __future__ import annotations

import numpy as np
import pytest

from neo_edge.bundle import Bundle
from neo_edge_export.tensorrt.installed import find_tensorrt
from neo_edge_export.tensorrt.parsing import parse_graph
from neo_edge_runtime.tensorrt.decoder import decoder_ports
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog
from neo_edge_runtime.tensorrt.trt_engine import TYPES

pytest.importorskip("tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed")


def test_the_decoders_ports_are_those_of_the_network_and_none_is_the_hosts(tiny_bundle: Bundle) -> None:
    installed, variant = find_tensorrt("tensorrt-rtx"), tiny_bundle.variant("fp16-portable")
    log = TensorRtLog(installed.module)
    builder = installed.module.Builder(log.logger)
    network = parse_graph(installed, builder, tiny_bundle.path(variant.decoder), log)
    half = np.dtype(np.float16)
    expected = decoder_ports(tiny_bundle.manifest.model.decoder, half, half)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]  # type: ignore[attr-defined]
    found = {port.name: port for port in (*inputs, *outputs)}
    assert found.keys() == expected.keys()
    for name, port in expected.items():
        assert (np.dtype(TYPES[found[name].dtype.name]), tuple(found[name].shape)) == (port.dtype, port.shape)
        # TensorRT keeps the inputs that shapes are computed from on the host, and no others.
        assert not found[name].is_shape_tensor
    assert {port.name for port in inputs} == {name for name, port in expected.items() if port.is_input}
