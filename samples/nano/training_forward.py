"""The reference's forward pass, arranged for training on a CPU: bfloat16 products, fused token-wise steps.

Same parameters, same function (a test holds it to the reference); only for whole padded prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear

from neo_edge_export.reference import (
    Attention,
    DecoderLayer,
    NeoModel,
    RMSNorm,
    allowed_by_time,
    rotary_embeddings,
    rotate_patches,
)
from neo_edge_runtime.preprocessing import MEAN, STD


@dataclass(frozen=True)
class Inputs:
    """A `batches.Batch` as tensors, as far as the model reads it."""

    ids: Tensor  # [B, S]
    position_ids: Tensor  # [B, 3, S]
    is_visual: Tensor  # [B, S]
    patches: Tensor  # [P, 768] uint8, packed order
    xy: Tensor  # [P, 2]


def forward(
    model: NeoModel, inputs: Inputs, wanted: Tensor, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """Logits, and what the tokens hold half-way.

    Args:
        model: the reference.
        inputs: whole prompts.
        wanted: [B, S] bool, of which tokens logits are computed.
        dtype: of the products.

    Returns:
        [N, vocab] logits of the wanted tokens, and the states [B, S, hidden] after half of the layers.
    """
    ids, position_ids = inputs.ids, inputs.position_ids
    decoder = model.language_model.model
    embeds = decoder.embed_tokens(ids)
    visual = embed_packed(model, inputs.patches, inputs.xy, dtype)
    hidden = embeds.masked_scatter(inputs.is_visual[:, :, None], visual.to(embeds.dtype)).flatten(0, 1)
    eps = decoder.config.rms_norm_eps
    cos, sin = _rotation(model, position_ids, dtype)
    blocked = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1], dtype=dtype)
    blocked.masked_fill_(~allowed_by_time(position_ids[:, 0]), -1e4)
    half_way = hidden
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        if index == len(decoder.layers) // 2:
            half_way = hidden.view(embeds.shape)
        normed = norm(hidden, layer.input_layernorm.weight, eps, dtype)
        hidden = hidden + _attention(layer.self_attn, normed, cos, sin, blocked, eps)
        normed = norm(hidden, layer.post_attention_layernorm.weight, eps, dtype)
        mlp = layer.mlp
        gated = swiglu(_linear(normed, mlp.gate_proj), _linear(normed, mlp.up_proj))
        hidden = hidden + _linear(gated, mlp.down_proj)
    normed = norm(hidden[wanted.flatten()], decoder.norm.weight, eps, dtype)
    return _linear(normed, model.language_model.lm_head), half_way


def embed_packed(model: NeoModel, patches: Tensor, xy: Tensor, dtype: torch.dtype) -> Tensor:
    """The two convolutions as products over packed uint8 patches: [P, 768] to [P / 4, hidden]."""
    embeddings = model.vision_model.embeddings
    mean = torch.from_numpy(MEAN).repeat_interleave(256) * 255
    std = torch.from_numpy(STD).repeat_interleave(256) * 255
    pixels = ((patches.float() - mean) / std).to(dtype)
    first, second = embeddings.patch_embedding, embeddings.dense_embedding
    hidden = F.linear(pixels, first.weight.flatten(1).to(dtype), _cast(first.bias, dtype))
    hidden = rotate_patches(F.gelu(hidden), xy, embeddings.config.rope_theta)
    weight = second.weight.permute(0, 2, 3, 1).flatten(1).to(dtype)
    return F.linear(hidden.reshape(-1, 4 * hidden.shape[1]), weight, _cast(second.bias, dtype))


def norm(hidden: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMS norm of [N, width]."""
    return (hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def time_height_width(
    time: Tensor,
    hw: Tensor,
    weight_t: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> Tensor:
    """Norms and rotations of one side: two [N, heads, d] to [N, heads, 2d]; cos and sin are [N, 1, 2d]."""
    half = time.shape[-1] // 2
    time, height, width = time.float(), hw[..., :half].float(), hw[..., half:].float()
    time = time * torch.rsqrt(time.square().mean(-1, keepdim=True) + eps) * weight_t
    height = height * torch.rsqrt(height.square().mean(-1, keepdim=True) + eps) * weight_h
    width = width * torch.rsqrt(width.square().mean(-1, keepdim=True) + eps) * weight_w
    parts, start = [], 0
    for part in (time, height, width):
        low, high = part.chunk(2, dim=-1)
        end, middle = start + part.shape[-1], start + low.shape[-1]
        c, s = cos[..., start:middle].float(), sin[..., start:middle].float()
        parts += [low * c - high * s, high * c + low * s]
        start = end
    return torch.cat(parts, dim=-1).to(cos.dtype)


def use_compiled() -> None:
    """Compiles the token-wise steps; only the number of tokens is dynamic, or the code would not vectorise."""
    global norm, swiglu, time_height_width
    norm, swiglu = torch.compile(norm, dynamic=None), torch.compile(swiglu, dynamic=None)
    time_height_width = torch.compile(time_height_width, dynamic=None)


def _attention(
    attention: Attention, normed: Tensor, cos: Tensor, sin: Tensor, blocked: Tensor, eps: float
) -> Tensor:
    batch, size, d = blocked.shape[0], blocked.shape[-1], attention.head_dim

    def side(time: Linear, hw: Linear, norm_t: RMSNorm, norm_h: RMSNorm, norm_w: RMSNorm) -> Tensor:
        both = time_height_width(
            _linear(normed, time).view(len(normed), -1, d),
            _linear(normed, hw).view(len(normed), -1, d),
            *(norm_t.weight, norm_h.weight, norm_w.weight),
            cos,
            sin,
            eps,
        )
        return both.view(batch, size, -1, 2 * d).transpose(1, 2)

    a = attention
    query = side(a.q_proj, a.q_proj_hw, a.q_norm, a.q_norm_h, a.q_norm_w)
    key = side(a.k_proj, a.k_proj_hw, a.k_norm, a.k_norm_h, a.k_norm_w)
    value = _linear(normed, attention.v_proj).view(batch, size, -1, d).transpose(1, 2)
    heads, kv_heads = query.shape[1], key.shape[1]
    grouped = (query * d**-0.5).reshape(batch, kv_heads, -1, 2 * d)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, size, size)
    weights_ = (scores + blocked).softmax(-1).view(batch, kv_heads, -1, size)
    attended = (weights_ @ value).view(batch, heads, size, d).transpose(1, 2).reshape(len(normed), -1)
    return _linear(attended, attention.o_proj)


def _rotation(model: NeoModel, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    parts = rotary_embeddings(model.config.decoder, position_ids, dtype)
    cos, sin = (torch.cat([part[index] for part in parts], dim=-1) for index in (0, 1))
    return cos.transpose(1, 2).flatten(0, 1), sin.transpose(1, 2).flatten(0, 1)


def _linear(hidden: Tensor, layer: Linear) -> Tensor:
    return F.linear(hidden, layer.weight.to(hidden.dtype))


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
