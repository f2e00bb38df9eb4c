"""Names, types and dimensions of what goes into the two graphs and comes out: the contract with every runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from neo_edge.config import DecoderConfig, ModelConfig
from neo_edge.manifest import OpsProfile
from neo_edge_export.dimensions import BATCH, CAPACITY, LOGITS_ROWS, PATCHES, SEQUENCE, VISUAL_TOKENS

Precision = Literal["fp32", "fp16"]

OPSET: dict[OpsProfile, int] = {"modern": 24, "portable": 20}
IR_VERSION = 11  # the newest that ONNX Runtime 1.25 and TensorRT 10.15 both take
FLOAT: dict[Precision, ir.DataType] = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}


@dataclass(frozen=True)
class Port:
    """One input or output of a graph."""

    name: str
    dtype: ir.DataType
    dims: tuple[int | str, ...]  # a name for each dimension that a run may choose


def vision_inputs(config: ModelConfig) -> list[Port]:
    """Packed patches, float32 in every precision, and their columns and rows."""
    return [
        Port("patches", ir.DataType.FLOAT, (PATCHES, config.vision.patch_dim)),
        Port("patch_xy", ir.DataType.INT32, (PATCHES, 2)),
    ]


def vision_outputs(config: ModelConfig, precision: Precision) -> list[Port]:
    """One row for each 2x2 patches."""
    return [Port("visual_tokens", FLOAT[precision], (VISUAL_TOKENS, config.decoder.hidden_size))]


def decoder_inputs(config: DecoderConfig, precision: Precision) -> list[Port]:
    """Embeddings, positions, indices, then all key caches, then all value caches."""
    return [
        Port("inputs_embeds", FLOAT[precision], (BATCH, SEQUENCE, config.hidden_size)),
        Port("position_ids", ir.DataType.INT32, (BATCH, 3, SEQUENCE)),
        Port("visible_length", ir.DataType.INT32, (BATCH, SEQUENCE)),
        Port("write_index", ir.DataType.INT32, (BATCH,)),
        Port("logits_index", ir.DataType.INT32, (BATCH, LOGITS_ROWS)),
        *_caches(config, precision, ("key_cache", "value_cache"), CAPACITY),
    ]


def decoder_outputs(config: DecoderConfig, precision: Precision, ops: OpsProfile) -> list[Port]:
    """Logits, then per profile the updated caches (same memory as the inputs) or the new keys and values."""
    logits = Port("logits", ir.DataType.FLOAT, (BATCH, LOGITS_ROWS, config.vocab_size))
    if ops == "modern":
        return [logits, *_caches(config, precision, ("key_cache_out", "value_cache_out"), CAPACITY)]
    return [logits, *_caches(config, precision, ("new_keys", "new_values"), SEQUENCE)]


def _caches(
    config: DecoderConfig, precision: Precision, names: tuple[str, str], length: str
) -> Iterator[Port]:
    for name, width in zip(names, (config.key_dim, config.head_dim), strict=True):
        for index in range(config.num_layers):
            yield Port(f"{name}.{index}", FLOAT[precision], (BATCH, config.num_kv_heads, length, width))
