"""The statistics are those of the activations that the PyTorch reference computes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from calibration_bundle import SAMPLES, linked_copy, questions

from neo_edge.bundle import open_bundle
from neo_edge.checkpoint import open_checkpoint, resolve_checkpoint
from neo_edge_calibration import CalibrationStatistics, calibrate
from neo_edge_calibration.clipping import BINS
from neo_edge_calibration.observation.block_runner import BlockRunner
from neo_edge_calibration.observation.blocks import DecoderGraph
from neo_edge_calibration.observation.encoding import EncodedSample, Encoder
from neo_edge_calibration.sources.conversation import conversation_of
from neo_edge_export.reference import NeoModel, allowed_by_time
from neo_edge_export.reference_loading import load_reference
from neo_edge_runtime.preprocessing import OFFSET, SCALE
from neo_edge_runtime.token_table import map_token_table

Rows = npt.NDArray[np.float32]

HOOKS = {
    "self_attn.q_proj": "attention_input",
    "self_attn.k_proj_hw": "attention_input",
    "self_attn.v_proj": "attention_input",
    "self_attn.o_proj": "attention_output",
    "mlp.gate_proj": "mlp_input",
    "mlp.up_proj": "mlp_input",
    "mlp.down_proj": "mlp_output",
}


@pytest.fixture(scope="module")
def reference() -> NeoModel:
    torch.set_num_threads(1)
    return load_reference(open_checkpoint(resolve_checkpoint("neo-ov-nano")))


@pytest.fixture(scope="module")
def encoded(exported_nano: Path) -> list[EncodedSample]:
    encoder = Encoder(open_bundle(exported_nano), "edge")
    return [encoder.encode(conversation_of(question, "scene")) for question in questions()]


@pytest.fixture(scope="module")
def activations(exported_nano: Path, reference: NeoModel, encoded: list[EncodedSample]) -> dict[str, Rows]:
    """What goes into each product, by hooks."""
    seen: defaultdict[str, list[Rows]] = defaultdict(list)
    handles = []

    def watch(module: torch.nn.Module, name: str) -> None:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name].append(inputs[0].numpy().reshape(-1, inputs[0].shape[-1]).copy())

        handles.append(module.register_forward_pre_hook(hook))

    def watch_merging(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        plane = inputs[0][0].numpy()  # [C, rows, columns] -> one row for 2x2, ordered (dy, dx, c)
        channels, rows, columns = plane.shape
        split = plane.reshape(channels, rows // 2, 2, columns // 2, 2).transpose(1, 3, 2, 4, 0)
        seen["vision.merged"].append(split.reshape(-1, 4 * channels).copy())

    for index, layer in enumerate(reference.language_model.model.layers):
        for path in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            watch(layer.get_submodule(path), f"layers.{index}.{HOOKS[path]}")
    handles.append(reference.vision_model.embeddings.dense_embedding.register_forward_pre_hook(watch_merging))
    encoder = Encoder(open_bundle(exported_nano), "edge")
    for sample in encoded:
        seats = encoder.layout(sample)
        patches = [_patches(image.pixels) for image in sample.images]
        seen["vision.patches"] += patches
        with torch.inference_mode():
            embeds = reference.embed(
                torch.from_numpy(sample.input_ids.astype(np.int64)),
                torch.from_numpy(seats.is_visual),
                torch.from_numpy(np.concatenate(patches)),
                torch.tensor([[image.grid.rows, image.grid.cols] for image in sample.images]),
            )
            positions = torch.from_numpy(seats.position_ids)[None]
            normed = reference.language_model.model(embeds, positions, allowed_by_time(positions[:, 0]))
        seen["head_input"].append(normed[0, sample.head_rows.astype(np.int64)].numpy())
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(rows) for name, rows in seen.items()}


def _patches(pixels: npt.NDArray[np.uint8]) -> Rows:
    """[P, 768] row-major."""
    # Rounded as the runtime does: levels lie on the histogram's edges, and thousands of pixels on a level.
    values = pixels * SCALE - OFFSET
    rows, columns = pixels.shape[0] // 16, pixels.shape[1] // 16
    split = values.reshape(rows, 16, columns, 16, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(split).reshape(-1, 768)


def _calibrated(bundle: Path, folder: Path, variant: str) -> CalibrationStatistics:
    copy = linked_copy(bundle, folder / f"{variant}.bundle")
    return calibrate(copy, questions(), samples=SAMPLES, variant=variant, threads=1).statistics


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [("fp32", 2e-5), ("fp32-portable", 2e-5), ("fp16", 4e-3)],  # float16 keeps 11 bits
)
def test_statistics_are_those_of_the_reference(
    exported_nano: Path, tmp_path: Path, activations: dict[str, Rows], variant: str, tolerance: float
) -> None:
    found = _calibrated(exported_nano, tmp_path, variant).groups
    assert found.keys() == activations.keys()
    assert len(found) == 4 * 6 + 3
    for name, rows in activations.items():
        group, magnitudes = found[name], np.abs(rows)
        scale = float(magnitudes.max())
        assert group.rows_seen == len(rows), name
        for ours, theirs in (
            (group.channel_amax, magnitudes.max(axis=0)),
            (group.channel_mean_abs, magnitudes.mean(axis=0, dtype=np.float64)),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        squares = np.square(rows, dtype=np.float64).mean(axis=0)
        np.testing.assert_allclose(
            group.channel_mean_square, squares, rtol=4 * tolerance, atol=tolerance * scale**2, err_msg=name
        )
        assert group.histogram_max / 2 <= scale * (1 + tolerance)
        assert scale <= group.histogram_max * (1 + tolerance)
        counts, _ = np.histogram(magnitudes, BINS, (0, group.histogram_max))
        # A number beside an edge may fall on its other side.
        moved = np.abs(np.cumsum(counts) - np.cumsum(group.histogram)).max()
        assert moved <= 3 + 3 * tolerance * magnitudes.size, name


def test_kept_rows_are_rows_of_the_reference_and_repeat_for_a_seed(
    exported_nano: Path, tmp_path: Path, activations: dict[str, Rows]
) -> None:
    found = _calibrated(exported_nano, tmp_path, "fp32").groups
    for name, rows in activations.items():
        kept = found[name].rows.astype(np.float32)
        assert kept.shape == (min(128, len(rows)), rows.shape[1])
        # Rounded to float16 when they were kept.
        near = np.abs(kept[::32, None] - rows[None]).max(axis=2).min(axis=1)
        assert near.max() <= 1e-3 * max(1.0, float(np.abs(rows).max())), name
    again = _calibrated(exported_nano, tmp_path / "again", "fp32").groups
    other = calibrate(
        linked_copy(exported_nano, tmp_path / "other.bundle"),
        questions(),
        samples=SAMPLES,
        variant="fp32",
        threads=1,
        seed=1,
    ).statistics.groups
    for name, group in found.items():
        np.testing.assert_array_equal(group.rows, again[name].rows)
        np.testing.assert_array_equal(group.channel_mean_square, other[name].channel_mean_square)
    assert not np.array_equal(found["head_input"].rows, other["head_input"].rows)


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [("fp32", 1e-5), ("fp32-portable", 1e-5), ("fp16", 1e-5), ("fp16-portable", 1e-3)],
)
def test_block_by_block_gives_the_logits_of_the_whole_graph(
    exported_nano: Path, encoded: list[EncodedSample], variant: str, tolerance: float
) -> None:
    """The portable profile sums attention over another number of masked columns, so its last bits differ."""
    import onnxruntime

    bundle = open_bundle(exported_nano)
    found, decoder = bundle.variant(variant), bundle.manifest.model.decoder
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    whole = onnxruntime.InferenceSession(str(bundle.path(found.decoder)), options)
    graph = DecoderGraph(bundle.path(found.decoder))
    dtype = np.dtype(found.cache_dtype)
    sample = encoded[2]
    size = len(sample.input_ids)
    seats = Encoder(bundle, "edge").layout(sample)
    embeds = np.array(map_token_table(bundle, found)[sample.input_ids])[None]
    shared = {
        "position_ids": seats.position_ids[None],
        "visible_length": seats.visible_length[None],
        "write_index": np.zeros(1, np.int32),
        "logits_index": np.arange(size, dtype=np.int32)[None],
    }
    caches = {
        f"{kind}_cache.{layer}": np.zeros((1, decoder.num_kv_heads, size, width), dtype)
        for layer in range(decoder.num_layers)
        for kind, width in (("key", decoder.key_dim), ("value", decoder.head_dim))
    }
    (wanted,) = whole.run(["logits"], {"inputs_embeds": embeds, **shared, **caches})
    assert graph.num_layers == decoder.num_layers
    hidden: npt.NDArray[np.floating] | None = embeds.astype(np.float32)
    for index in range(graph.num_layers):
        block = graph.layer(index)
        _, hidden = BlockRunner(block, threads=1).run({str(block.hidden_input): hidden, **shared, **caches})
    _, logits = BlockRunner(graph.logits(), threads=1).run(
        {str(graph.logits().hidden_input): hidden, **shared}
    )
    assert logits is not None
    assert np.abs(logits - wanted).max() <= tolerance * np.abs(wanted).max()
