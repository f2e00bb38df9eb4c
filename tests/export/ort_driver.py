"""Runs exported graphs in ONNX Runtime with plain feeds: slow, small, and independent of the runtime package."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from neo_edge.config import ModelConfig
from neo_edge.manifest import OpsProfile


class OrtDriver:
    """One variant's graphs and a cache for a batch of sequences."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        ops: OpsProfile,
        *,
        batch: int = 1,
        capacity: int = 96,
        as_written: bool = False,  # not a node is fused or moved
    ) -> None:
        options = ort.SessionOptions()
        if as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.vision_session, self.decoder_session = (
            ort.InferenceSession(folder / f"{part}.onnx", options, providers=["CPUExecutionProvider"])
            for part in ("vision", "decoder")
        )
        self.ops = ops
        decoder = config.decoder
        first = self.decoder_session.get_inputs()[0]
        self.dtype = np.float16 if first.type == "tensor(float16)" else np.float32
        self.layers = decoder.num_layers
        shape = (batch, decoder.num_kv_heads, capacity)
        rng = np.random.default_rng(5)
        # Not zeros: what stands beyond the visible part must not matter.
        self.caches = {
            f"{name}.{layer}": rng.normal(size=(*shape, width)).astype(self.dtype)
            for name, width in (("key_cache", decoder.key_dim), ("value_cache", decoder.head_dim))
            for layer in range(self.layers)
        }
        self._table, self._table_shape = (
            folder / "token_embedding.bin",
            (decoder.vocab_size, decoder.hidden_size),
        )

    @cached_property
    def embedding(self) -> npt.NDArray[np.generic]:
        """The token table of a float variant."""
        return np.fromfile(self._table, self.dtype).reshape(self._table_shape)

    def vision(self, patches: npt.NDArray[np.float32], xy: npt.NDArray[np.int32]) -> npt.NDArray[np.generic]:
        (tokens,) = self.vision_session.run(["visual_tokens"], {"patches": patches, "patch_xy": xy})
        return tokens

    def step(
        self,
        embeds: npt.NDArray[np.generic],
        position_ids: npt.NDArray[np.integer],
        visible_length: npt.NDArray[np.integer],
        write_index: list[int],
        rows: npt.NDArray[np.integer] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits [B, N, vocab] of `rows` [B, N] (all when None); keeps the new keys and values."""
        batch, new = visible_length.shape
        rows = np.tile(np.arange(new), (batch, 1)) if rows is None else rows
        feeds = {
            "inputs_embeds": embeds.astype(self.dtype),
            "position_ids": position_ids.astype(np.int32),
            "visible_length": visible_length.astype(np.int32),
            "write_index": np.array(write_index, np.int32),
            "logits_index": rows.astype(np.int32),
            **self.caches,
        }
        names = [output.name for output in self.decoder_session.get_outputs()]
        outputs = dict(zip(names, self.decoder_session.run(names, feeds), strict=True))
        for layer in range(self.layers):
            for cache, updated, added in (
                ("key_cache", "key_cache_out", "new_keys"),
                ("value_cache", "value_cache_out", "new_values"),
            ):
                if self.ops == "modern":
                    self.caches[f"{cache}.{layer}"] = outputs[f"{updated}.{layer}"]
                    continue
                for row, start in enumerate(write_index):
                    values = outputs[f"{added}.{layer}"][row]
                    self.caches[f"{cache}.{layer}"][row, :, start : start + new] = values
        return outputs["logits"]
