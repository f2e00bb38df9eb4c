"""Activation statistics of a tiny bundle, read off its float graphs in plain ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from neo_edge.bundle import Bundle
from neo_edge_calibration.clipping import BINS
from neo_edge_calibration.statistics import CalibrationStatistics, GroupStatistics
from neo_edge_export.quantization.groups import activation_group
from neo_edge_export.quantization.variant_writer import open_graphs
from neo_edge_export.random_prompt import random_prompt

Rows = npt.NDArray[np.float32]
CAPACITY = 64


def observed_statistics(bundle: Bundle, variant: str) -> CalibrationStatistics:
    """All groups over one random prompt."""
    prompt = random_prompt(bundle.manifest.model, bundle.manifest.special_tokens, seed=4)
    found, decoder = bundle.variant(variant), bundle.manifest.model.decoder
    vision = {"patches": prompt.packed_patches, "patch_xy": prompt.patch_xy}
    table = np.fromfile(bundle.path(found.token_embedding.file), np.float32).reshape(
        found.token_embedding.shape
    )
    length = len(prompt.input_ids)
    shape = (1, decoder.num_kv_heads, CAPACITY)
    feeds = {
        "inputs_embeds": table[prompt.input_ids][None],
        "position_ids": prompt.layout.position_ids[None].astype(np.int32),
        "visible_length": prompt.layout.visible_length[None].astype(np.int32),
        "write_index": np.zeros(1, np.int32),
        "logits_index": np.arange(length, dtype=np.int32)[None],
        **{
            f"key_cache.{i}": np.zeros((*shape, decoder.key_dim), np.float32)
            for i in range(decoder.num_layers)
        },
        **{
            f"value_cache.{i}": np.zeros((*shape, decoder.head_dim), np.float32)
            for i in range(decoder.num_layers)
        },
    }
    groups: dict[str, GroupStatistics] = {}
    for part, graph in open_graphs(bundle, variant).items():
        names = {activation_group(product): str(product.node.inputs[0].name) for product in graph.products}  # type: ignore[union-attr]
        rows = _values(graph.path, set(names.values()), feeds if part == "decoder" else vision)
        for group, name in names.items():
            weights = [product.weight for product in graph.products if activation_group(product) == group]
            groups[group] = _statistics(rows[name], weights)
    return CalibrationStatistics(groups, "max", 1, variant, "a random prompt", "0", "0", "0")


def _values(path: Path, names: set[str], feeds: dict[str, npt.NDArray[np.generic]]) -> dict[str, Rows]:
    model = onnx.load(path, load_external_data=False)
    inputs = {value.name for value in model.graph.input}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(names - inputs))
    watched = path.with_name("watched.onnx")
    watched.write_bytes(model.SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(watched, options, providers=["CPUExecutionProvider"])
    asked = sorted(names - inputs)
    found = dict(zip(asked, session.run(asked, feeds), strict=True))
    watched.unlink()
    return {**{name: feeds[name] for name in names & inputs}, **found}


def _statistics(values: Rows, weights: list[str]) -> GroupStatistics:
    rows = values.reshape(-1, values.shape[-1]).astype(np.float32)
    magnitudes, largest = np.abs(rows), float(2 ** np.ceil(np.log2(np.abs(rows).max())))
    return GroupStatistics(
        weights=tuple(weights),
        rows_seen=len(rows),
        channel_amax=magnitudes.max(axis=0),
        channel_mean_abs=magnitudes.mean(axis=0),
        channel_mean_square=np.square(rows).mean(axis=0),
        histogram=np.histogram(magnitudes, BINS, (0, largest))[0].astype(np.int64),
        histogram_max=largest,
        rows=rows[:128],
    )
