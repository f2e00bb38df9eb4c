"""The operators that a trace keeps whole: each is one node in the trace and (modern profile) one ONNX node.

Traced from plain PyTorch they would fall apart into dozens of nodes a layer, and the cache update into copies
of the whole cache. The bodies below are what eager PyTorch computes; `register_fake` tells a trace the result's
shape and type. Letters: B batch, S new tokens, C cache capacity, d head dim.
"""

# ruff: noqa: ARG001 - an operator, its fake and its translations share one signature

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("neo_edge::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) over the last dimension, in float32, times weight; the result has x's type."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * weight.float()).to(x.dtype)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("neo_edge::rotary", mutates_args=())
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates neighbouring pairs (2i, 2i + 1) of x [B, heads, S, n] by angles given as [B, S, n / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@rotary.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("neo_edge::cache_update", mutates_args=())
def cache_update(cache: Tensor, new: Tensor, write_index: Tensor) -> Tensor:
    """`cache` [B, kv heads, C, n] with `new` [B, kv heads, S, n] written from `write_index` [B] on.

    A graph binds input and output to the same memory. The portable profile hands out `new` alone.
    """
    updated = cache.clone()
    for row, start in enumerate(write_index.tolist()):
        updated[row, :, start : start + new.shape[2]] = new[row]
    return updated


@cache_update.register_fake
def _(cache: Tensor, new: Tensor, write_index: Tensor) -> Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("neo_edge::visibility", mutates_args=())
def visibility(visible_length: Tensor, write_index: Tensor, cache: Tensor, group: int) -> Tensor:
    """The mask that all layers share: [B, 1, S, C] bool, true at j < `visible_length` [B, S].

    The portable profile makes an additive one for [cache, new] columns, with `group` (query heads a key head)
    times the rows; that is what `write_index` and `group` are for.
    """
    columns = torch.arange(cache.shape[2], device=cache.device)
    return (columns < visible_length[:, :, None])[:, None]


@visibility.register_fake
def _(visible_length: Tensor, write_index: Tensor, cache: Tensor, group: int) -> Tensor:
    batch, new = visible_length.shape
    return visible_length.new_empty((batch, 1, new, cache.shape[2]), dtype=torch.bool)


@torch.library.custom_op("neo_edge::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, mask: Tensor
) -> Tensor:
    """Grouped-query attention without a scale (it is in the norms); softmax in float32.

    Args:
        query: [B, heads, S, 2d].
        key: [B, kv heads, C, 2d], what `cache_update` gave.
        value: [B, kv heads, C, d], likewise.
        key_cache: [B, kv heads, C, 2d] before the update: read by the portable profile only, where `key` and
            `value` are the new rows alone.
        value_cache: [B, kv heads, C, d], likewise.
        mask: what `visibility` gave.

    Returns:
        [B, heads, S, d].
    """
    batch, heads, new, _ = query.shape
    kv_heads, attended = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, -1, query.shape[-1])
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, new, attended).float()
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(value.dtype)
    return (weights.view(batch, kv_heads, -1, attended) @ value).view(batch, heads, new, -1)


@attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, mask: Tensor
) -> Tensor:
    return query.new_empty((*query.shape[:3], value.shape[-1]))


@torch.library.custom_op("neo_edge::take_rows", mutates_args=())
def take_rows(hidden: Tensor, index: Tensor) -> Tensor:
    """[B, N, hidden]: of each batch row the tokens that `index` [B, N] names."""
    return hidden.gather(1, index.long()[:, :, None].expand(-1, -1, hidden.shape[2]))


@take_rows.register_fake
def _(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.new_empty((*index.shape, hidden.shape[2]))
