"""Packed patches turn both convolutions of the patch embedding into plain matrix products."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from neo_edge.checkpoint import open_checkpoint
from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy

EMBEDDINGS = "vision_model.embeddings"


def rotate(values: np.ndarray, position: np.ndarray, theta: float) -> np.ndarray:
    """Interleaved rotary embedding of [P, n] by one coordinate per patch."""
    size = values.shape[1]
    angle = position[:, None] * theta ** (-2 * np.arange(size // 2) / size)
    even, odd = values[:, 0::2], values[:, 1::2]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(values.shape)


def test_matrix_products_over_packed_patches_give_upstreams_visual_tokens(
    golden_tiny: Path, golden_case: dict[str, np.ndarray]
) -> None:
    checkpoint = open_checkpoint(golden_tiny)
    read = {
        name.split(".", 2)[2]: checkpoint.read(name) for name in checkpoint.iter_names() if EMBEDDINGS in name
    }
    grids = [PatchGrid(*grid) for grid in golden_case["grid_hw"].tolist()]
    starts = np.cumsum([0, *[grid.patches for grid in grids]])
    order = [start + pack_order(grid) for start, grid in zip(starts, grids, strict=False)]
    packed = golden_case["pixel_values"][np.concatenate([np.zeros(0, np.int64), *order])]

    hidden = (
        packed @ read["patch_embedding.weight"].reshape(-1, packed.shape[1]).T + read["patch_embedding.bias"]
    )
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(hidden / math.sqrt(2)))
    x, y = packed_patch_xy(grids).T
    half = hidden.shape[1] // 2
    theta = checkpoint.config.vision.rope_theta
    hidden = np.concatenate([rotate(hidden[:, :half], x, theta), rotate(hidden[:, half:], y, theta)], axis=1)
    weight = (
        read["dense_embedding.weight"].transpose(0, 2, 3, 1).reshape(len(read["dense_embedding.bias"]), -1)
    )
    tokens = hidden.reshape(len(packed) // 4, 4 * hidden.shape[1]) @ weight.T + read["dense_embedding.bias"]

    # float64 here against upstream's float32.
    np.testing.assert_allclose(tokens, golden_case["vit_embeds"], atol=1e-5)
