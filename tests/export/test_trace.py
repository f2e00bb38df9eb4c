"""What the graphs look like: names, open dimensions, size, and nothing of the machine that made them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import Checkpoint
from neo_edge.checkpoint_presets import preset_config
from neo_edge.config import ModelConfig, parse_config
from neo_edge.errors import ExportError
from neo_edge.manifest import OpsProfile
from neo_edge_export import graph_contract
from neo_edge_export.bundle_export import ExportOptions, write_variants
from neo_edge_export.graph_contract import Precision
from neo_edge_export.trace import DecoderTrace, VisionTrace
from neo_edge_export.translate import translate

PROFILES: tuple[OpsProfile, ...] = ("modern", "portable")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
MODERN_NODES_A_LAYER = 65  # the project's limit


@pytest.fixture(scope="module")
def two_billion() -> ModelConfig:
    """The widths of NEO-ov 2B, two of its layers."""
    return parse_config(preset_config("2b", layers=2))


def ports(values: list[ir.Value]) -> list[tuple[str, str, list[int | str]]]:
    return [
        (value.name, value.dtype.name, [dim if isinstance(dim, int) else dim.value for dim in value.shape])
        for value in values
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_modern_layer_of_2b_widths_has_at_most_65_nodes(
    two_billion: ModelConfig, precision: Precision
) -> None:
    counts = []
    for layers in (1, 2):
        decoder = replace(two_billion.decoder, num_layers=layers)
        counts.append(len(DecoderTrace(decoder, precision).graph("modern").graph))
    assert counts[1] - counts[0] <= MODERN_NODES_A_LAYER


def test_inputs_and_outputs_are_the_contracts(two_billion: ModelConfig) -> None:
    trace = DecoderTrace(two_billion.decoder, "fp16")
    modern, portable = (trace.graph(ops).graph for ops in PROFILES)
    inputs = [
        ("inputs_embeds", "FLOAT16", ["batch", "sequence", 2048]),
        ("position_ids", "INT32", ["batch", 3, "sequence"]),
        ("visible_length", "INT32", ["batch", "sequence"]),
        ("write_index", "INT32", ["batch"]),
        ("logits_index", "INT32", ["batch", "logits_rows"]),
        ("key_cache.0", "FLOAT16", ["batch", 8, "capacity", 256]),
        ("key_cache.1", "FLOAT16", ["batch", 8, "capacity", 256]),
        ("value_cache.0", "FLOAT16", ["batch", 8, "capacity", 128]),
        ("value_cache.1", "FLOAT16", ["batch", 8, "capacity", 128]),
    ]
    assert ports(modern.inputs) == ports(portable.inputs) == inputs
    logits = ("logits", "FLOAT", ["batch", "logits_rows", 151936])
    assert ports(modern.outputs) == [
        logits,
        ("key_cache_out.0", "FLOAT16", ["batch", 8, "capacity", 256]),
        ("key_cache_out.1", "FLOAT16", ["batch", 8, "capacity", 256]),
        ("value_cache_out.0", "FLOAT16", ["batch", 8, "capacity", 128]),
        ("value_cache_out.1", "FLOAT16", ["batch", 8, "capacity", 128]),
    ]
    assert ports(portable.outputs) == [
        logits,
        ("new_keys.0", "FLOAT16", ["batch", 8, "sequence", 256]),
        ("new_keys.1", "FLOAT16", ["batch", 8, "sequence", 256]),
        ("new_values.0", "FLOAT16", ["batch", 8, "sequence", 128]),
        ("new_values.1", "FLOAT16", ["batch", 8, "sequence", 128]),
    ]


@pytest.mark.parametrize("ops", PROFILES)
def test_the_vision_graph_takes_float32_patches_in_every_precision(
    two_billion: ModelConfig, ops: OpsProfile
) -> None:
    graph = VisionTrace(two_billion, "fp16").graph(ops).graph
    assert ports(graph.inputs) == [
        ("patches", "FLOAT", ["patches", 768]),
        ("patch_xy", "INT32", ["patches", 2]),
    ]
    assert ports(graph.outputs) == [("visual_tokens", "FLOAT16", ["visual_tokens", 2048])]


def test_each_operator_of_ours_is_one_modern_operator(two_billion: ModelConfig) -> None:
    layers = two_billion.decoder.num_layers
    counts = Counter(node.op_type for node in DecoderTrace(two_billion.decoder, "fp32").graph("modern").graph)
    assert counts["Attention"] == layers
    assert counts["TensorScatter"] == counts["RotaryEmbedding"] == 2 * layers
    assert counts["RMSNormalization"] == 8 * layers + 1
    assert counts["MatMul"] == 9 * layers + 1


@pytest.mark.parametrize("ops", PROFILES)
def test_weights_go_straight_into_products_under_the_checkpoints_names(
    two_billion: ModelConfig, ops: OpsProfile
) -> None:
    graph = DecoderTrace(two_billion.decoder, "fp32").graph(ops).graph
    uses = {node.inputs[1].name: node.name for node in graph if node.op_type == "MatMul"}
    for name in (
        *(f"layers.1.self_attn.{each}_proj.weight" for each in "qkvo"),
        *(f"layers.1.self_attn.{each}_proj_hw.weight" for each in "qk"),
        *(f"layers.1.mlp.{each}_proj.weight" for each in ("gate", "up", "down")),
        "lm_head.weight",
    ):
        assert uses[name] == name.replace("weight", "MatMul")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_exporting_twice_gives_the_same_graphs_without_a_trace_of_the_machine(
    tiny_bundle: Bundle, tiny: Checkpoint, tmp_path: Path, precision: Precision
) -> None:
    write_variants(tiny, tmp_path, ExportOptions((precision,), PROFILES))
    for name in (precision, f"{precision}-portable"):
        for file in ("vision.onnx", "decoder.onnx", "decoder.onnx.data", "token_embedding.bin"):
            written = (tmp_path / name / file).read_bytes()
            assert written == tiny_bundle.path(f"{name}/{file}").read_bytes()
            assert b".py" not in written
            assert str(Path(__file__).parents[2]).encode() not in written


@pytest.mark.parametrize(("variant", "opset"), [("fp32", 24), ("fp16-portable", 20)])
def test_written_graphs_are_valid_and_declare_the_versions_of_the_contract(
    tiny_bundle: Bundle, variant: str, opset: int
) -> None:
    for part in ("vision", "decoder"):
        path = tiny_bundle.path(f"{variant}/{part}.onnx")
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert model.ir_version == 11
        assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]


def test_an_operator_without_a_translation_is_named() -> None:
    class Strange(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x)

    program = torch.export.export(Strange(), (torch.zeros(2),))
    port = graph_contract.Port("x", ir.DataType.FLOAT, (2,))
    with pytest.raises(ExportError, match="aten.erfinv.default"):
        translate(program, "modern", inputs=[port], outputs=[port])
