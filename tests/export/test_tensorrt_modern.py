"""Why engines are not built from modern graphs: what versions have, and what TensorRT-RTX says to such a graph."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from neo_edge.bundle import Bundle
from neo_edge.engines import EngineBackend
from neo_edge.errors import EngineBuildError
from neo_edge_export.tensorrt.installed import Installed, find_tensorrt
from neo_edge_export.tensorrt.parsing import parse_graph
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog

NO_UPDATE = "TensorRT before 10.15 updates no cache in place"
FIXED = "a cache updated in place has a fixed length, and every step would attend to all of --max-context"


@pytest.mark.parametrize(
    ("backend", "version", "why"),
    [
        ("tensorrt", "10.3.0", NO_UPDATE),
        ("tensorrt", "10.13.3.9", NO_UPDATE),
        ("tensorrt", "10.14.1.48", NO_UPDATE),
        ("tensorrt", "10.15.1.29", FIXED),
        ("tensorrt", "10.16.1.11", FIXED),
        ("tensorrt", "11.4.0.106", FIXED),
        ("tensorrt-rtx", "1.7.1.116", FIXED),
    ],
)
def test_every_version_builds_the_portable_graphs_and_says_why(
    backend: EngineBackend, version: str, why: str
) -> None:
    installed = Installed(backend, version, SimpleNamespace())
    assert (installed.ops, installed.why_ops) == ("portable", why)


def test_the_layer_that_updates_a_cache_is_missing_in_versions_that_are_said_to_lack_it() -> None:
    interfaces = json.loads(Path(__file__).with_name("tensorrt_interfaces.json").read_text(encoding="utf-8"))
    has = {
        name: "add_kv_cache_update" in interface["classes"]["INetworkDefinition"].split()
        for name, interface in interfaces.items()
    }
    assert has == {"10.3": False, "10.13": False, "10.16": True, "11.4": True, "rtx-1.7.1": True}


def parse(graph: Path) -> None:
    installed = find_tensorrt("tensorrt-rtx")
    log = TensorRtLog(installed.module)
    parse_graph(installed, installed.module.Builder(log.logger), graph, log)


def test_rtx_takes_no_cache_of_any_length_and_no_values_narrower_than_keys(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
    )
    variant = tiny_bundle.variant("fp16")
    assert variant.ops == "modern"
    parse(tiny_bundle.path(variant.vision))
    source = tiny_bundle.path(variant.decoder)
    with pytest.raises(
        EngineBuildError, match=r"\(TensorScatter\): .*KV cache tensor must have a static sequence length"
    ):
        parse(source)
    fixed = onnx.load(str(source))
    for value in [*fixed.graph.input, *fixed.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == "capacity":
                size.dim_value = 64
    onnx.save(fixed, str(tmp_path / "decoder.onnx"))
    with pytest.raises(EngineBuildError, match=r"\(Attention\): .*Key and Value must have the same shape"):
        parse(tmp_path / "decoder.onnx")
