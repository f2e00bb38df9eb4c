"""How each parameter of the lowered module is made of the checkpoint's tensors; numpy only.

`lowered_tensors` is the whole mapping; nothing is read until a tensor's rows are asked for, so weights can be
streamed one by one, and large ones in slices. `lower` is the same for models that fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from neo_edge.checkpoint import EMBEDDING, LM_HEAD
from neo_edge.config import DecoderConfig, ModelConfig

Index = npt.NDArray[np.int64]

_VISION = "vision_model.embeddings"
_DECODER = "language_model.model"


class TensorSource(Protocol):
    """What weights are read from; `neo_edge.checkpoint.Checkpoint` is one."""

    def read_rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.floating]:
        """Rows of one tensor."""
        ...


class LoweredTensor(Protocol):
    """One parameter of the lowered module, made when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the lowered module."""
        ...

    def columns(self, source: TensorSource, /) -> Iterator[npt.NDArray[np.generic]]:
        """Slices along the last dimension, in order, each small enough to hold."""
        ...


@dataclass(frozen=True)
class Matrix:
    """A weight [out, in, ...] as [in, out]: transposed, flattened and, where asked, reordered."""

    name: str  # of the checkpoint's tensor
    outputs: int
    inputs: int
    output_order: Index | None = None  # the source row of each output
    input_order: Index | None = None  # the source column of each input
    block_bytes: int = 64 << 20  # float32 bytes that are in memory at once; a reordered weight is read whole

    @property
    def shape(self) -> tuple[int, ...]:
        """[in, out]."""
        return self.inputs, self.outputs

    def columns(self, source: TensorSource) -> Iterator[npt.NDArray[np.generic]]:
        """[in, some outputs] float32 slices."""
        if self.output_order is not None:
            rows = source.read_rows(self.name, 0, self.outputs)[self.output_order]
            yield self._lowered(rows)
            return
        step = max(1, self.block_bytes // (4 * self.inputs))
        for start in range(0, self.outputs, step):
            yield self._lowered(source.read_rows(self.name, start, min(start + step, self.outputs)))

    def _lowered(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        matrix = rows.reshape(len(rows), self.inputs)
        if self.input_order is not None:
            matrix = matrix[:, self.input_order]
        return np.ascontiguousarray(matrix.T, np.float32)


@dataclass(frozen=True)
class Vector:
    """A bias or norm weight, reordered and scaled where asked."""

    name: str
    size: int
    order: Index | None = None
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """[size]."""
        return (self.size,)

    def columns(self, source: TensorSource) -> Iterator[npt.NDArray[np.generic]]:
        """The whole vector in float32."""
        vector = source.read_rows(self.name, 0, self.size).astype(np.float32)
        if self.order is not None:
            vector = vector[self.order]
        yield vector * np.float32(self.scale)


@dataclass(frozen=True)
class Table:
    """Numbers that follow from the config alone."""

    array: npt.NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    def columns(self, _source: TensorSource) -> Iterator[npt.NDArray[np.generic]]:
        """The array; the source is not read."""
        yield self.array


def lowered_vision(config: ModelConfig) -> dict[str, LoweredTensor]:
    """Every parameter of `LoweredVision` by name."""
    vision, hidden = config.vision, config.decoder.hidden_size
    merged = vision.merge_size**2
    return {
        "patch_embedding.weight": Matrix(
            f"{_VISION}.patch_embedding.weight", vision.hidden_size, vision.patch_dim
        ),
        "patch_embedding.bias": Vector(f"{_VISION}.patch_embedding.bias", vision.hidden_size),
        "dense_embedding.weight": Matrix(
            f"{_VISION}.dense_embedding.weight",
            hidden,
            merged * vision.hidden_size,
            input_order=_patch_major(vision.hidden_size, merged),
        ),
        "dense_embedding.bias": Vector(f"{_VISION}.dense_embedding.bias", hidden),
        "frequency": Table(_frequency(vision.hidden_size // 2, vision.rope_theta)),
    }


def lowered_decoder(config: DecoderConfig) -> dict[str, LoweredTensor]:
    """Every parameter of `LoweredDecoder` by name."""
    hidden = config.hidden_size
    tensors: dict[str, LoweredTensor] = {}
    for index in range(config.num_layers):
        layer = f"layers.{index}"
        tensors |= {
            f"{layer}.{name}": tensor for name, tensor in _layer(config, f"{_DECODER}.{layer}").items()
        }
    head = EMBEDDING if config.tie_word_embeddings else LM_HEAD
    quarter = config.head_dim // 4
    plane = _frequency(config.head_dim // 2, config.rope_theta_hw)
    return tensors | {
        "norm.weight": Vector(f"{_DECODER}.norm.weight", hidden),
        "lm_head.weight": Matrix(head, config.vocab_size, hidden),
        "frequency": Table(np.concatenate([_frequency(config.head_dim, config.rope_theta), plane, plane])),
        "axis": Table(np.repeat(np.arange(3), [2 * quarter, quarter, quarter])),  # 0 t, 1 h, 2 w
    }


def _layer(config: DecoderConfig, prefix: str) -> dict[str, LoweredTensor]:
    hidden, inner, d = config.hidden_size, config.intermediate_size, config.head_dim
    half, queries, keys = d // 2, config.num_heads * d, config.num_kv_heads * d
    tensors: dict[str, LoweredTensor] = {}
    for side, heads, outputs, scale in (
        ("q", config.num_heads, queries, d**-0.5),  # the attention scale goes into the queries
        ("k", config.num_kv_heads, keys, 1.0),
    ):
        for name, parts in (("proj", 1), ("proj_hw", 2)):
            order = _interleaved(d // parts, repeats=heads * parts)
            key = f"self_attn.{side}_{name}.weight"
            tensors[key] = Matrix(f"{prefix}.{key}", outputs, hidden, output_order=order)
        for name, size in (("norm", d), ("norm_h", half), ("norm_w", half)):
            key = f"self_attn.{side}_{name}.weight"
            tensors[key] = Vector(f"{prefix}.{key}", size, order=_interleaved(size), scale=scale)
    for key, outputs, inputs in (
        ("self_attn.v_proj.weight", keys, hidden),
        ("self_attn.o_proj.weight", hidden, queries),
        ("mlp.gate_proj.weight", inner, hidden),
        ("mlp.up_proj.weight", inner, hidden),
        ("mlp.down_proj.weight", hidden, inner),
    ):
        tensors[key] = Matrix(f"{prefix}.{key}", outputs, inputs)
    for key in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        tensors[key] = Vector(f"{prefix}.{key}", hidden)
    return tensors


def lower(tensors: Mapping[str, LoweredTensor], source: TensorSource) -> dict[str, npt.NDArray[np.generic]]:
    """All of them at once, for models that fit in memory."""
    return {name: materialize(tensor, source) for name, tensor in tensors.items()}


def materialize(tensor: LoweredTensor, source: TensorSource) -> npt.NDArray[np.generic]:
    """One whole tensor."""
    return np.concatenate(list(tensor.columns(source)), axis=-1)


def _interleaved(width: int, repeats: int = 1) -> Index:
    """Where each number of a rotated part comes from when pairs (i, i + n/2) become neighbours (2i, 2i + 1)."""
    order: Index = np.arange(width * repeats).reshape(repeats, 2, -1).transpose(0, 2, 1).reshape(-1)
    return order


def _patch_major(channels: int, patches: int) -> Index:
    """(c, dy, dx) of a convolution's weight as (dy, dx, c): the order of packed patches."""
    order: Index = np.arange(channels * patches).reshape(channels, patches).T.reshape(-1)
    return order


def _frequency(width: int, theta: float) -> npt.NDArray[np.float32]:
    """[width / 2]: theta ** (-2i / width), in float32 as upstream computes it."""
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequency: npt.NDArray[np.float32] = np.float32(1) / np.float32(theta) ** exponent
    return frequency
