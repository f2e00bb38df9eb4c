"""Weights stream from the checkpoint into files: aligned, checked, and never all at once."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from synthetic_checkpoint import golden_tensors, write_checkpoint

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import EMBEDDING, Checkpoint, open_checkpoint
from neo_edge.errors import ExportError
from neo_edge_export.lowering import Matrix, lower, lowered_decoder
from neo_edge_export.trace import DecoderTrace
from neo_edge_export.weights import StreamedTensor, save_embedding, save_graph

GATE = "language_model.model.layers.1.mlp.gate_proj.weight"


def stored_weights(bundle: Bundle, variant: str) -> dict[str, np.ndarray]:
    model = onnx.load(bundle.path(f"{variant}/decoder.onnx"))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_stored_weights_are_the_lowered_ones(tiny_bundle: Bundle, tiny: Checkpoint) -> None:
    stored = stored_weights(tiny_bundle, "fp32")
    for name, array in lower(lowered_decoder(tiny.config.decoder), tiny).items():
        np.testing.assert_array_equal(stored[name], array)


def test_float16_keeps_the_norms_of_the_residual_stream_in_float32(tiny_bundle: Bundle) -> None:
    stored = stored_weights(tiny_bundle, "fp16")
    wide = {name for name, array in stored.items() if array.dtype == np.float32}
    norms = {
        f"layers.{index}.{norm}.weight"
        for index in range(3)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    assert wide == {*norms, "norm.weight", "frequency"}
    assert stored["layers.0.mlp.up_proj.weight"].dtype == np.float16


def test_external_tensors_start_on_pages(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.path("fp16/decoder.onnx"), load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(offsets) > 20
    assert all(offset % 4096 == 0 for offset in offsets)


@pytest.mark.parametrize("block_bytes", [4 * 64 * 50, 1 << 20])
def test_a_tensor_written_in_slices_is_the_tensor_written_whole(
    tiny: Checkpoint, tmp_path: Path, block_bytes: int
) -> None:
    matrix = Matrix(EMBEDDING, outputs=320, inputs=64, block_bytes=block_bytes)
    streamed = StreamedTensor("lm_head.weight", matrix, tiny, ir.DataType.FLOAT16)
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.write(b"before")
        streamed.tofile(file)
    expected = np.asarray(tiny.read(EMBEDDING)).T.astype("<f2").tobytes()
    assert path.read_bytes() == b"before" + expected
    assert streamed.tobytes() == expected


def test_the_embedding_table_is_the_checkpoints_rows(tiny_bundle: Bundle, tiny: Checkpoint) -> None:
    table = np.fromfile(tiny_bundle.path("fp16/token_embedding.bin"), "<f2").reshape(320, 64)
    np.testing.assert_array_equal(table, np.asarray(tiny.read(EMBEDDING)).astype(np.float16))


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    tensors = golden_tensors()
    tensors[GATE][3, 5] = -70000
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, tensors))
    config = checkpoint.config.decoder
    graph = DecoderTrace(config, "fp16").graph("modern")
    with pytest.raises(
        ExportError, match=r"layers\.1\.mlp\.gate_proj\.weight reaches 70000 .* --precision fp32"
    ):
        save_graph(graph, lowered_decoder(config), checkpoint, tmp_path / "decoder.onnx", lambda: None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_weight_is_named_in_every_precision(tmp_path: Path, value: float) -> None:
    tensors = golden_tensors()
    tensors[EMBEDDING][7, 0] = value
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, tensors))
    with pytest.raises(ExportError, match=r"embed_tokens\.weight holds NaN or infinity"):
        save_embedding(checkpoint, EMBEDDING, (320, 64), np.float32, tmp_path / "table.bin")


def test_peak_memory_is_a_few_tensors_whatever_the_depth(tmp_path: Path) -> None:
    hidden, inner = 256, 2048
    peaks = []
    for layers in (2, 8):
        folder = write_checkpoint(
            tmp_path / str(layers), hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers
        )
        checkpoint = open_checkpoint(folder)
        config = checkpoint.config.decoder
        graph = DecoderTrace(config, "fp16").graph("modern")
        tracemalloc.start()
        save_graph(graph, lowered_decoder(config), checkpoint, folder / "decoder.onnx", lambda: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    largest_tensor = 4 * hidden * inner
    assert max(peaks) < 3 * largest_tensor
    assert peaks[1] - peaks[0] < largest_tensor / 4  # the weights grew by 31 of the largest tensors
