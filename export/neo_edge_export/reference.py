"""NEO-ov in PyTorch, written to be read beside the paper (arXiv 2605.28820); the law that exports are held to.

Module names are upstream's, so `load_state_dict` takes a published checkpoint's tensors. Letters: B batch,
S new tokens, T attended tokens, d head dim, P patches. Every picture is cut into 16x16 px patches; two
convolutions make one visual token of each 2x2 of them; one decoder reads visual and text tokens alike. Queries
and keys are 2d wide, [time: d | height: d/2 | width: d/2], values are d wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_edge.config import DecoderConfig, ModelConfig, VisionConfig

Rotation = tuple[Tensor, Tensor]  # cos and sin, each [B, 1, S, n]


class NeoModel(nn.Module):
    """The whole model: pictures and token ids in, logits out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config.vision, config.decoder.hidden_size)
        self.language_model = LanguageModel(config.decoder)

    def embed(self, input_ids: Tensor, is_visual: Tensor, pixel_values: Tensor, grid_hw: Tensor) -> Tensor:
        """Token embeddings, with the visual tokens put in their places.

        Args:
            input_ids: [S] int64.
            is_visual: [S] bool, true where an `<IMG_CONTEXT>` stands.
            pixel_values: [P, 768] float, row-major patches of all pictures, one picture after the other.
            grid_hw: [pictures, 2] int64, each picture's rows and columns of patches.

        Returns:
            [1, S, hidden] float.
        """
        embeds: Tensor = self.language_model.model.embed_tokens(input_ids)
        if grid_hw.shape[0]:
            visual = self.vision_model.embeddings(pixel_values.to(embeds.dtype), grid_hw.tolist())
            embeds = embeds.index_put((is_visual.nonzero()[:, 0],), visual.to(embeds.dtype))
        return embeds[None]


@dataclass
class KeyValueCache:
    """Keys and values of all tokens so far, in storage that is allocated once and written in place."""

    keys: list[Tensor]  # a layer each, [B, kv heads, capacity, 2d]
    values: list[Tensor]  # a layer each, [B, kv heads, capacity, d]
    length: int = 0  # tokens held

    @classmethod
    def empty(
        cls, config: DecoderConfig, capacity: int, *, batch: int = 1, dtype: torch.dtype = torch.float32
    ) -> KeyValueCache:
        """A cache for `capacity` tokens; rewinding it is setting `length`."""
        shape = (batch, config.num_kv_heads, capacity)
        layers = range(config.num_layers)
        return cls(
            [torch.zeros(*shape, config.key_dim, dtype=dtype) for _ in layers],
            [torch.zeros(*shape, config.head_dim, dtype=dtype) for _ in layers],
        )

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the new keys and values behind the old ones; gives views of all that is visible now."""
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class VisionModel(nn.Module):
    """Upstream's name for what holds the patch embedding; there is no encoder behind it."""

    def __init__(self, config: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.embeddings = PatchEmbedding(config, hidden_size)


class PatchEmbedding(nn.Module):
    """Patch convolution, exact GELU, 2D rotary embedding, then a 2x2 convolution."""

    def __init__(self, config: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        patch, merge = config.patch_size, config.merge_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)
        self.dense_embedding = nn.Conv2d(config.hidden_size, hidden_size, merge, stride=merge)

    def forward(self, pixel_values: Tensor, grid_hw: Sequence[Sequence[int]]) -> Tensor:
        """[P, 768] row-major patches to [P / 4, hidden] visual tokens, row-major within each picture."""
        size = self.config.patch_size
        patches = pixel_values.view(-1, self.config.num_channels, size, size)
        embedded = F.gelu(self.patch_embedding(patches)).flatten(1)  # erf, not tanh
        tokens = []
        for picture, (rows, columns) in zip(
            embedded.split([rows * columns for rows, columns in grid_hw]), grid_hw, strict=True
        ):
            rotated = rotate_patches(picture, patch_positions(rows, columns), self.config.rope_theta)
            plane = rotated.view(1, rows, columns, -1).permute(0, 3, 1, 2)
            tokens.append(self.dense_embedding(plane).flatten(2)[0].T)
        return torch.cat(tokens)


def patch_positions(rows: int, columns: int) -> Tensor:
    """[rows * columns, 2] int64: x (column) and y (row) of every patch, row-major."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def rotate_patches(patches: Tensor, xy: Tensor, theta: float) -> Tensor:
    """Rotates neighbouring pairs: the first half of the width by x, the second by y; in float32."""
    half = patches.shape[1] // 2
    frequency = inverse_frequency(half, theta)
    angle = (xy[:, :, None].float() * frequency).flatten(1)  # [P, width / 2]
    even, odd = patches[:, 0::2].float(), patches[:, 1::2].float()
    cos, sin = angle.cos(), angle.sin()
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(1).to(patches.dtype)


class LanguageModel(nn.Module):
    """Decoder and head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, allow: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """[B, S, vocab] logits; arguments as `Decoder.forward`."""
        logits: Tensor = self.lm_head(self.model(inputs_embeds, position_ids, allow, cache))
        return logits


class Decoder(nn.Module):
    """Pre-norm Qwen3 layers; the first few are the paper's pre-buffer, which inference does not tell apart."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        allow: Tensor,
        cache: KeyValueCache | None = None,
        hidden_layers: list[Tensor] | None = None,
    ) -> Tensor:
        """Normed hidden states of the new tokens.

        Args:
            inputs_embeds: [B, S, hidden] float.
            position_ids: [B, 3, S] int, (t, h, w) of the new tokens.
            allow: [B, 1, S, T] bool (or [1, 1, S, T]), true where a new token may attend.
            cache: earlier tokens, appended to in place; None when there are none.
            hidden_layers: receives the input of every layer and, last, what goes into the final norm.

        Returns:
            [B, S, hidden] float.
        """
        hidden = inputs_embeds
        rotations = rotary_embeddings(self.config, position_ids, hidden.dtype)
        for layer in self.layers:
            if hidden_layers is not None:
                hidden_layers.append(hidden)
            hidden = layer(hidden, rotations, allow, cache)
        if cache is not None:
            cache.length += hidden.shape[1]
        if hidden_layers is not None:
            hidden_layers.append(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class DecoderLayer(nn.Module):
    """Attention and SwiGLU, each behind a norm and beside a residual."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, hidden: Tensor, rotations: Sequence[Rotation], allow: Tensor, cache: KeyValueCache | None
    ) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotations, allow, cache)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class Attention(nn.Module):
    """Grouped-query attention over time, height and width."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_dim = index, config.head_dim
        width, d = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(width, config.num_heads * d, bias=False)
        self.q_proj_hw = nn.Linear(width, config.num_heads * d, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * d, bias=False)
        self.k_proj_hw = nn.Linear(width, config.num_kv_heads * d, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * d, bias=False)
        self.o_proj = nn.Linear(config.num_heads * d, width, bias=False)
        eps = config.rms_norm_eps
        self.q_norm, self.k_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.q_norm_h, self.k_norm_h = RMSNorm(d // 2, eps), RMSNorm(d // 2, eps)
        self.q_norm_w, self.k_norm_w = RMSNorm(d // 2, eps), RMSNorm(d // 2, eps)

    def forward(
        self, hidden: Tensor, rotations: Sequence[Rotation], allow: Tensor, cache: KeyValueCache | None
    ) -> Tensor:
        query_norms = (self.q_norm, self.q_norm_h, self.q_norm_w)
        key_norms = (self.k_norm, self.k_norm_h, self.k_norm_w)
        query = self._thw(self.q_proj(hidden), self.q_proj_hw(hidden), query_norms, rotations)
        key = self._thw(self.k_proj(hidden), self.k_proj_hw(hidden), key_norms, rotations)
        value = self._heads(self.v_proj(hidden))
        if cache is not None:
            key, value = cache.append(self.index, key, value)
        attended = attend(query, key, value, allow, scale=self.head_dim**-0.5)  # of d, not of 2d
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _thw(
        self, time: Tensor, hw: Tensor, norms: Sequence[RMSNorm], rotations: Sequence[Rotation]
    ) -> Tensor:
        """[B, heads, S, 2d]: the time part and the two halves of the H/W branch, each normed and rotated."""
        parts = (self._heads(time), *self._heads(hw).chunk(2, dim=-1))
        return torch.cat(
            [
                rotate_half(norm(part), rotation)
                for norm, part, rotation in zip(norms, parts, rotations, strict=True)
            ],
            dim=-1,
        )

    def _heads(self, projected: Tensor) -> Tensor:
        heads: Tensor = projected.unflatten(-1, (-1, self.head_dim))
        return heads.transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class RMSNorm(nn.Module):
    """x / rms(x) in float32, then the weight in the model's type."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(hidden.dtype)


def inverse_frequency(width: int, theta: float) -> Tensor:
    """[width / 2] float32: theta ** (-2i / width)."""
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def rotary_embeddings(config: DecoderConfig, position_ids: Tensor, dtype: torch.dtype) -> list[Rotation]:
    """cos and sin for the T, H and W parts: [B, 1, S, d], and twice [B, 1, S, d / 2]; computed in float32."""
    rotations = []
    widths = (config.head_dim, config.head_dim // 2, config.head_dim // 2)
    thetas = (config.rope_theta, config.rope_theta_hw, config.rope_theta_hw)
    for axis, (width, theta) in enumerate(zip(widths, thetas, strict=True)):
        angle = position_ids[:, None, axis, :, None].float() * inverse_frequency(width, theta)
        angle = torch.cat([angle, angle], dim=-1)
        rotations.append((angle.cos().to(dtype), angle.sin().to(dtype)))
    return rotations


def rotate_half(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates the pairs (i, i + n / 2) of the last dimension."""
    cos, sin = rotation
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def attend(query: Tensor, key: Tensor, value: Tensor, allow: Tensor, scale: float) -> Tensor:
    """Softmax attention, softmax in float32; [B, heads, S, d].

    SDPA on accelerators. On CPUs two products with grouped heads are 2.5 to 5 times faster than SDPA, whose
    fused kernel wants values as wide as keys.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=allow, scale=scale, enable_gqa=True
        )
    batch, heads, new, width = query.shape
    kv_heads, attended = key.shape[1], key.shape[2]
    grouped = (query * scale).reshape(batch, kv_heads, -1, width)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, new, attended)
    weights = scores.float().masked_fill(~allow, float("-inf")).softmax(-1).to(value.dtype)
    return (weights.view(batch, kv_heads, -1, attended) @ value).view(batch, heads, new, -1)


def allowed_by_time(t: Tensor) -> Tensor:
    """[B, S] times to the [B, 1, S, S] mask of a whole prompt: causal, and all of a picture sees all of it."""
    causal = torch.ones(t.shape[1], t.shape[1], dtype=torch.bool, device=t.device).tril()
    return ((t[:, :, None] == t[:, None, :]) | causal)[:, None]
