"""A small NEO-ov in numpy float64 behind the runtime's `Backend` protocol: a fake without ONNX Runtime, and an
oracle, since it is written from the paper's formulas and shares no code with the export.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neo_edge.checkpoint import open_checkpoint
from neo_edge.errors import BackendError
from neo_edge_runtime.backend import BackendTraits, DecoderInputs, DecoderState

Array = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


class NumpyBackend:
    """Counts its calls; `poison` makes every logit a NaN from the next run on.

    A sequence that is fed `poisoned_token` gets NaN in its cache and logits; a run that holds `failing_token` fails.
    """

    def __init__(self, checkpoint: Path) -> None:
        opened = open_checkpoint(checkpoint)
        self.config = opened.config
        self.weights = {name: np.asarray(opened.read(name), np.float64) for name in opened.iter_names()}
        self.token_embedding = self.weights["language_model.model.embed_tokens.weight"].astype(np.float32)
        self.traits = BackendTraits(
            config=self.config, embedding_dtype=np.dtype(np.float32), cache_element_bytes=4, score_buffers=1
        )
        self.runs: list[int] = []  # tokens of each decoder run, of one sequence
        self.batches: list[int] = []  # sequences of each decoder run
        self.vision_calls: list[int] = []  # patches of each vision call
        self.states: list[NumpyState] = []
        self.poison = False
        self.poisoned_token: int | None = None
        self.failing_token: int | None = None
        self.closed = False

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        assert patches.dtype == np.float32
        assert patch_xy.dtype == np.int32
        self.vision_calls.append(len(patches))
        w, vision = self.weights, self.config.vision
        name = "vision_model.embeddings."
        first = w[name + "patch_embedding.weight"].reshape(vision.hidden_size, -1)
        x = patches.astype(np.float64) @ first.T + w[name + "patch_embedding.bias"]
        x = x * 0.5 * (1 + _erf(x / math.sqrt(2))) if x.size else x
        half = vision.hidden_size // 2
        frequency = vision.rope_theta ** (-np.arange(0, half, 2) / half)
        angle = np.concatenate([patch_xy[:, :1] * frequency, patch_xy[:, 1:] * frequency], axis=1)
        even, odd = x[:, 0::2], x[:, 1::2]
        turned = np.empty_like(x)
        turned[:, 0::2] = even * np.cos(angle) - odd * np.sin(angle)
        turned[:, 1::2] = even * np.sin(angle) + odd * np.cos(angle)
        groups = turned.reshape(-1, 2, 2, vision.hidden_size)  # visual token, dy, dx, channel
        tokens = np.einsum("ndxc,hcdx->nh", groups, w[name + "dense_embedding.weight"])
        return (tokens + w[name + "dense_embedding.bias"]).astype(np.float32)

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        decoder = self.config.decoder
        shape = (decoder.num_layers, batch, decoder.num_kv_heads, capacity)
        state = NumpyState(self, np.zeros((*shape, decoder.key_dim)), np.zeros((*shape, decoder.head_dim)))
        self.states.append(state)
        return state

    def holds(self, token: int | None, inputs: DecoderInputs) -> npt.NDArray[np.bool_]:
        """[B]: whether the token is among a sequence's new ones."""
        if token is None:
            return np.zeros(len(inputs.inputs_embeds), np.bool_)
        return (inputs.inputs_embeds == self.token_embedding[token]).all(-1).any(-1)

    def release_scratch(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@dataclass
class NumpyState:
    backend: NumpyBackend
    keys: Array  # [layers, B, kv heads, C, 2d]
    values: Array  # [layers, B, kv heads, C, d]
    grown_to: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        backend, decoder = self.backend, self.backend.config.decoder
        batch, new = inputs.visible_length.shape
        assert not self.closed
        assert inputs.inputs_embeds.shape == (batch, new, decoder.hidden_size)
        assert inputs.position_ids.shape == (batch, 3, new)
        assert inputs.position_ids.dtype == inputs.visible_length.dtype == np.int32
        assert inputs.write_index.dtype == inputs.logits_index.dtype == np.int32
        assert inputs.visible_length.min() >= 1
        assert inputs.visible_length.max() <= self.capacity
        assert (inputs.write_index + new <= self.capacity).all()
        backend.runs.append(new)
        backend.batches.append(batch)
        if backend.holds(backend.failing_token, inputs).any():
            raise BackendError("the decoder graph failed, as the test wanted")
        hidden = inputs.inputs_embeds.astype(np.float64)
        hidden[backend.holds(backend.poisoned_token, inputs)] = np.nan
        allow = np.arange(self.capacity) < inputs.visible_length[:, :, None]  # [B, S, C]
        for layer in range(decoder.num_layers):
            name = f"language_model.model.layers.{layer}."
            normed = self._norm(hidden, name + "input_layernorm")
            hidden = hidden + self._attention(layer, name + "self_attn.", normed, inputs, allow)
            normed = self._norm(hidden, name + "post_attention_layernorm")
            gate, up = (
                self._linear(normed, name + "mlp.gate_proj"),
                self._linear(normed, name + "mlp.up_proj"),
            )
            hidden = hidden + self._linear(gate / (1 + np.exp(-gate)) * up, name + "mlp.down_proj")
        wanted = np.take_along_axis(hidden, inputs.logits_index[:, :, None], axis=1)
        logits = self._linear(self._norm(wanted, "language_model.model.norm"), "language_model.lm_head")
        return np.full_like(logits, np.nan, np.float32) if backend.poison else logits.astype(np.float32)

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        self.grown_to.append(capacity)
        self.keys, self.values = (
            self._resized(array[:, :rows], capacity, length) for array in (self.keys, self.values)
        )

    def copy_row(self, row: int, source: DecoderState, source_row: int, *, length: int) -> None:
        assert isinstance(source, NumpyState)
        self.keys[:, row, :, :length] = source.keys[:, source_row, :, :length]
        self.values[:, row, :, :length] = source.values[:, source_row, :, :length]

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        assert not set(sources.tolist()) & set(targets.tolist())
        for array in (self.keys, self.values):
            array[:, :, :, targets] = array[:, :, :, sources]

    def shift_t(self, steps: int, *, length: int) -> None:
        d = self.backend.config.decoder.head_dim
        angle = steps * self.backend.config.decoder.rope_theta ** (-np.arange(0, d, 2) / d)
        low, high = (self.keys[..., :length, part].copy() for part in (slice(0, d // 2), slice(d // 2, d)))
        self.keys[..., :length, : d // 2] = low * np.cos(angle) - high * np.sin(angle)
        self.keys[..., :length, d // 2 : d] = high * np.cos(angle) + low * np.sin(angle)

    def copy(self, *, length: int, capacity: int) -> NumpyState:
        other = NumpyState(
            self.backend,
            self._resized(self.keys, capacity, length),
            self._resized(self.values, capacity, length),
        )
        self.backend.states.append(other)
        return other

    def close(self) -> None:
        self.closed = True

    def _attention(
        self, layer: int, name: str, x: Array, inputs: DecoderInputs, allow: npt.NDArray[np.bool_]
    ) -> Array:
        decoder = self.backend.config.decoder
        batch, new, _ = x.shape
        query = self._thw("q", name, x, inputs.position_ids, decoder.num_heads)
        key = self._thw("k", name, x, inputs.position_ids, decoder.num_kv_heads)
        value = self._heads(self._linear(x, name + "v_proj"), decoder.num_kv_heads)
        for row, start in enumerate(inputs.write_index.tolist()):
            self.keys[layer, row, :, start : start + new] = key[row]
            self.values[layer, row, :, start : start + new] = value[row]
        repeat = decoder.num_heads // decoder.num_kv_heads
        keys, values = (np.repeat(array[layer, :batch], repeat, axis=1) for array in (self.keys, self.values))
        scores = query @ keys.transpose(0, 1, 3, 2) / math.sqrt(decoder.head_dim)
        scores = np.where(allow[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (weights / weights.sum(-1, keepdims=True)) @ values
        return self._linear(attended.transpose(0, 2, 1, 3).reshape(batch, new, -1), name + "o_proj")

    def _thw(self, side: str, name: str, x: Array, position_ids: npt.NDArray[np.int32], heads: int) -> Array:
        decoder = self.backend.config.decoder
        time = self._heads(self._linear(x, f"{name}{side}_proj"), heads)
        spatial = self._heads(self._linear(x, f"{name}{side}_proj_hw"), heads)
        half = decoder.head_dim // 2
        parts = (
            (time, "norm", decoder.rope_theta),
            (spatial[..., :half], "norm_h", decoder.rope_theta_hw),
            (spatial[..., half:], "norm_w", decoder.rope_theta_hw),
        )
        rotated = []
        for axis, (part, norm, theta) in enumerate(parts):
            normed, width = self._norm(part, f"{name}{side}_{norm}"), part.shape[-1]
            angle = position_ids[:, axis, :, None] * theta ** (-np.arange(0, width, 2) / width)
            cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
            low, high = normed[..., : width // 2], normed[..., width // 2 :]
            rotated += [low * cos - high * sin, high * cos + low * sin]
        return np.concatenate(rotated, axis=-1)

    def _heads(self, x: Array, heads: int) -> Array:
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.backend.weights[name + ".weight"].T

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + self.backend.config.decoder.rms_norm_eps)
        return x / scale * self.backend.weights[name + ".weight"]

    def _resized(self, array: Array, capacity: int, length: int) -> Array:
        shape = (*array.shape[:3], capacity, array.shape[4])
        resized = np.zeros(shape)
        resized[:, :, :, :length] = array[:, :, :, :length]
        return resized
