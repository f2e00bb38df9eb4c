"""The model in the form that is traced: what `lowering.py` turns the reference's weights into.

It differs from the reference in five exact ways. Queries and keys stand in interleaved order within T, H and W,
so one rotary embedding turns all 2d dims; 1/sqrt(d) is in the query norms; projections are [in, out] matrices;
both convolutions are matrix products over packed patches; and rows for logits are picked before the final norm.
Caches, positions and masks are inputs. In float16 the residual stream, norms and angles stay in float32.
Letters: B batch, S new tokens, C cache capacity, N logits rows, P patches, d head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_edge.config import DecoderConfig, ModelConfig
from neo_edge_export import ops


class LoweredVision(nn.Module):
    """Patch embedding over packed patches of any number of pictures."""

    frequency: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        vision = config.vision
        self.dtype, self.width = dtype, vision.hidden_size
        self.merged = vision.merge_size**2 * vision.hidden_size
        self.patch_embedding = Projection(vision.patch_dim, vision.hidden_size, dtype, bias=True)
        self.dense_embedding = Projection(self.merged, config.decoder.hidden_size, dtype, bias=True)
        self.register_buffer("frequency", torch.empty(vision.hidden_size // 4))

    def forward(self, patches: Tensor, patch_xy: Tensor) -> Tensor:
        """Visual tokens.

        Args:
            patches: [P, patch_dim] float32 in packed order (`neo_edge.patch_grid.pack_order`).
            patch_xy: [P, 2] int32, column and row of each patch within its picture.

        Returns:
            [P / 4, hidden] in the model's type.
        """
        embedded = F.gelu(self.patch_embedding(patches.to(self.dtype))).float()
        angle = (patch_xy.float().unsqueeze(-1) * self.frequency).view(1, -1, self.width // 2)
        rotated = ops.rotary(embedded.view(1, 1, -1, self.width), angle.cos(), angle.sin())
        merged = rotated.view(-1, self.merged)
        output: Tensor = self.dense_embedding(merged.to(self.dtype))
        return output


class LoweredDecoder(nn.Module):
    """One graph for prefill and decode."""

    frequency: Tensor
    axis: Tensor

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.layers = nn.ModuleList(LoweredLayer(config, dtype) for _ in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps, torch.float32)
        self.lm_head = Projection(config.hidden_size, config.vocab_size, dtype)
        self.register_buffer("frequency", torch.empty(config.head_dim))
        self.register_buffer("axis", torch.empty(config.head_dim, dtype=torch.int64))

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        visible_length: Tensor,
        write_index: Tensor,
        logits_index: Tensor,
        caches: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Logits and the updated caches.

        Args:
            inputs_embeds: [B, S, hidden] in the model's type.
            position_ids: [B, 3, S] int32, (t, h, w).
            visible_length: [B, S] int32, how many cache positions a token may attend to.
            write_index: [B] int32, where in the cache the new tokens stand.
            logits_index: [B, N] int32, rows to compute logits for.
            caches: of all layers the keys [B, kv heads, C, 2d], then of all layers the values
                [B, kv heads, C, d], in the model's type.

        Returns:
            Logits [B, N, vocab] float32, then the caches in the same order.
        """
        key_caches, value_caches = caches[: len(self.layers)], caches[len(self.layers) :]
        group = self.config.num_heads // self.config.num_kv_heads
        mask = ops.visibility(visible_length, write_index, key_caches[0], group)
        positions = position_ids.float().transpose(1, 2).index_select(2, self.axis)
        angle = positions * self.frequency  # [B, S, d]
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        hidden = inputs_embeds.float()
        keys, values = [], []
        for layer, key_cache, value_cache in zip(self.layers, key_caches, value_caches, strict=True):
            hidden, key, value = layer(hidden, cos, sin, mask, write_index, key_cache, value_cache)
            keys.append(key)
            values.append(value)
        rows = ops.take_rows(hidden, logits_index)
        logits: Tensor = self.lm_head(self.norm(rows).to(self.dtype)).float()
        return logits, *keys, *values


class LoweredLayer(nn.Module):
    """Attention and SwiGLU; the residual stream is float32."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps, torch.float32)
        self.self_attn = LoweredAttention(config, dtype)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps, torch.float32)
        self.mlp = LoweredMLP(config, dtype)

    def forward(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        write_index: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, key, value = self.self_attn(
            self.input_layernorm(hidden).to(self.dtype), cos, sin, mask, write_index, key_cache, value_cache
        )
        hidden = hidden + attended.float()
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden).to(self.dtype)).float()
        return hidden, key, value


class LoweredAttention(nn.Module):
    """Projections, norms, rotary embedding, cache update and attention."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, d, eps = config.hidden_size, config.head_dim, config.rms_norm_eps
        query_width, key_width = config.num_heads * d, config.num_kv_heads * d
        self.q_proj = Projection(width, query_width, dtype)
        self.q_proj_hw = Projection(width, query_width, dtype)
        self.k_proj = Projection(width, key_width, dtype)
        self.k_proj_hw = Projection(width, key_width, dtype)
        self.v_proj = Projection(width, key_width, dtype)
        self.o_proj = Projection(query_width, width, dtype)
        self.q_norm, self.q_norm_h, self.q_norm_w = (Norm(n, eps, dtype) for n in (d, d // 2, d // 2))
        self.k_norm, self.k_norm_h, self.k_norm_w = (Norm(n, eps, dtype) for n in (d, d // 2, d // 2))

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        write_index: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        query = self._thw(self.q_proj(x), self.q_proj_hw(x), self.q_norm, self.q_norm_h, self.q_norm_w)
        key = self._thw(self.k_proj(x), self.k_proj_hw(x), self.k_norm, self.k_norm_h, self.k_norm_w)
        value = self._heads(self.v_proj(x)).transpose(1, 2)
        key = ops.cache_update(key_cache, ops.rotary(key, cos, sin), write_index)
        value = ops.cache_update(value_cache, value, write_index)
        attended = ops.attention(ops.rotary(query, cos, sin), key, value, key_cache, value_cache, mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2)), key, value

    def _thw(self, time: Tensor, plane: Tensor, norm: Norm, norm_h: Norm, norm_w: Norm) -> Tensor:
        """[B, heads, S, 2d], normed and not yet rotated."""
        height, width = self._heads(plane).chunk(2, dim=-1)
        parts = [norm(self._heads(time)), norm_h(height), norm_w(width)]
        return torch.cat(parts, dim=-1).transpose(1, 2)

    def _heads(self, projected: Tensor) -> Tensor:
        heads: Tensor = projected.unflatten(-1, (-1, self.head_dim))
        return heads


class LoweredMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = Projection(config.hidden_size, config.intermediate_size, dtype)
        self.up_proj = Projection(config.hidden_size, config.intermediate_size, dtype)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size, dtype)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Projection(nn.Module):
    """x @ weight [in, out] (+ bias): ONNX's order, so no transpose stays in the graph."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        product = torch.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias


class Norm(nn.Module):
    """RMS norm whose weight may hold more than the reference's (the attention scale)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = ops.rms_norm(x, self.weight, self.eps)
        return output
