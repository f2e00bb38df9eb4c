"""The portable float16 graphs build into TensorRT-RTX engines ahead of time, without a GPU.

A stand-in for the TensorRT of robots: its parser and its strong typing are those of TensorRT 11.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_edge.checkpoint import open_checkpoint, resolve_checkpoint
from neo_edge.errors import CheckpointError
from neo_edge_export.bundle_export import ExportOptions, write_variants

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
)

ARCHITECTURES = ("SM80", "SM86", "SM89")  # A100, Orin's desktop relatives, Ada
LEAST = {"batch": 1, "sequence": 1, "capacity": 256, "logits_rows": 1, "patches": 4}
USUAL = {"batch": 1, "sequence": 64, "capacity": 512, "logits_rows": 1, "patches": 400}
MOST = {"batch": 2, "sequence": 512, "capacity": 4096, "logits_rows": 8, "patches": 4096}


@pytest.fixture(scope="module")
def graphs(golden_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped nano checkpoint's; the golden one's while no nano ships."""
    try:
        checkpoint = open_checkpoint(resolve_checkpoint("neo-ov-nano"))
    except CheckpointError:
        checkpoint = open_checkpoint(golden_tiny)
    folder = tmp_path_factory.mktemp("portable")
    write_variants(checkpoint, folder, ExportOptions(("fp16",), ("portable",)))
    return folder / "fp16-portable"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_the_portable_float16_graph_builds(graphs: Path, part: str, architecture: str) -> None:
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
