"""The portable int8 and int4 graphs build into TensorRT-RTX engines ahead of time, without a GPU.

A stand-in for the TensorRT of robots: its parser and its strong typing are those of TensorRT 11.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from observed_inputs import observed_statistics

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge_export.bundle_export import ExportOptions, export_bundle
from neo_edge_export.quantization.group_inputs import plan_inputs
from neo_edge_export.quantization.recipes import RECIPES
from neo_edge_export.quantization.variant_writer import open_graphs, write_variant

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
)

# Of the decoder all of A100, Orin's desktop relatives, Ada and Blackwell; of the small vision graph one.
BUILDS = (
    ("decoder", "SM80"),
    ("decoder", "SM86"),
    ("decoder", "SM89"),
    ("decoder", "SM120"),
    ("vision", "SM86"),
)
LEAST = {"batch": 1, "sequence": 1, "capacity": 256, "logits_rows": 1, "patches": 4}
USUAL = {"batch": 1, "sequence": 64, "capacity": 512, "logits_rows": 1, "patches": 400}
MOST = {"batch": 2, "sequence": 512, "capacity": 4096, "logits_rows": 8, "patches": 4096}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("rtx") / "nano.bundle"
    options = ExportOptions(("fp32", "fp16"), ("portable",), verify_slice=range(1))
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, options)
    return open_bundle(target)


@pytest.fixture(scope="module", params=["int8", "int4-portable"])
def graphs(request: pytest.FixtureRequest, nano: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's graphs from the float16 source, which is what a robot runs."""
    recipe, source = RECIPES[request.param], "fp16-portable"
    floats = open_graphs(nano, source)
    rules = {
        product.name: recipe.rule(product.name) for graph in floats.values() for product in graph.products
    }
    statistics = observed_statistics(nano, "fp32-portable")
    inputs = plan_inputs(floats, nano.manifest.model.decoder, recipe, rules, statistics)
    folder = tmp_path_factory.mktemp("graphs") / recipe.name
    write_variant(nano, source, recipe, rules, inputs, folder)
    return folder


@pytest.mark.parametrize(("part", "architecture"), BUILDS)
def test_the_portable_quantized_graph_builds(graphs: Path, part: str, architecture: str) -> None:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graphs / f"{part}.onnx"))
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    settings = builder.create_builder_config()
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(getattr(trt.ComputeCapability, architecture), 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        port = network.get_input(index)
        names = [port.get_dimension_name(axis) for axis in range(len(port.shape))]
        shapes = [
            [sizes[name] if size < 0 else size for name, size in zip(names, port.shape, strict=True)]
            for sizes in (LEAST, USUAL, MOST)
        ]
        profile.set_shape(port.name, *shapes)
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    assert engine is not None
    assert engine.nbytes > 10_000
