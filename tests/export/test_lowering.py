"""The lowered model is the reference, exactly, and is made tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_checkpoint import golden_tensors, write_checkpoint

from neo_edge.checkpoint import Checkpoint, open_checkpoint
from neo_edge_export.lowered import LoweredDecoder, LoweredVision
from neo_edge_export.lowering import Matrix, lower, lowered_decoder, lowered_vision, materialize
from neo_edge_export.random_prompt import random_prompt
from neo_edge_export.reference import KeyValueCache
from neo_edge_export.reference_loading import load_reference

ATOL = 1e-5  # float32 sums in another order


def lowered_modules(checkpoint: Checkpoint) -> tuple[LoweredVision, LoweredDecoder]:
    config = checkpoint.config
    vision = LoweredVision(config, torch.float32)
    decoder = LoweredDecoder(config.decoder, torch.float32)
    for module, tensors in ((vision, lowered_vision(config)), (decoder, lowered_decoder(config.decoder))):
        arrays = lower(tensors, checkpoint)
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return vision, decoder


@pytest.fixture(params=["untied", "tied", "one query head a key head"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    if request.param == "untied":
        return open_checkpoint(write_checkpoint(tmp_path, golden_tensors()))
    if request.param == "tied":
        return open_checkpoint(write_checkpoint(tmp_path, tied=True))
    return open_checkpoint(write_checkpoint(tmp_path, num_key_value_heads=4, head_dim=8, num_hidden_layers=2))


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_lowered_modules_equal_the_reference(checkpoint: Checkpoint, seed: int) -> None:
    config = checkpoint.config.decoder
    reference = load_reference(checkpoint)
    vision, decoder = lowered_modules(checkpoint)
    prompt = random_prompt(checkpoint.config, None, seed)
    plan, length = prompt.layout, len(prompt.input_ids)

    grids = torch.tensor([[grid.rows, grid.cols] for grid in prompt.grids])
    is_visual = torch.from_numpy(plan.is_visual)
    embeds = reference.embed(
        torch.from_numpy(prompt.input_ids), is_visual, torch.from_numpy(prompt.pixels), grids
    )
    tokens = vision(torch.from_numpy(prompt.packed_patches), torch.from_numpy(prompt.patch_xy))
    torch.testing.assert_close(tokens, embeds[0][is_visual], atol=ATOL, rtol=0)

    positions = torch.from_numpy(plan.position_ids)[None]
    allow = torch.arange(length) < torch.from_numpy(plan.visible_length)[:, None]
    cache = KeyValueCache.empty(config, length)
    expected = reference.language_model(embeds, positions, allow[None, None], cache)
    capacity = length + 3
    shape = (1, config.num_kv_heads, capacity)
    caches = [
        torch.randn(*shape, width) for width in (config.key_dim, config.head_dim) for _ in decoder.layers
    ]
    logits, *updated = decoder(
        embeds,
        positions,
        torch.from_numpy(plan.visible_length)[None],
        torch.zeros(1, dtype=torch.int32),
        torch.arange(length, dtype=torch.int32)[None],
        caches,
    )
    torch.testing.assert_close(logits, expected, atol=ATOL, rtol=0)
    for layer, values in enumerate(updated[config.num_layers :]):
        torch.testing.assert_close(values[:, :, :length], cache.values[layer], atol=ATOL, rtol=0)


def test_every_parameter_of_the_modules_has_its_recipe(tiny: Checkpoint) -> None:
    config = tiny.config
    for module, tensors in (
        (LoweredVision(config, torch.float32), lowered_vision(config)),
        (LoweredDecoder(config.decoder, torch.float32), lowered_decoder(config.decoder)),
    ):
        shapes = {name: tuple(parameter.shape) for name, parameter in module.state_dict().items()}
        assert {name: tensor.shape for name, tensor in tensors.items()} == shapes


def test_scores_keep_the_scale_that_the_query_norms_hold(tiny: Checkpoint) -> None:
    lowered = lower(lowered_decoder(tiny.config.decoder), tiny)
    stored = np.asarray(tiny.read("language_model.model.layers.1.self_attn.q_norm.weight"))
    pairs = stored.reshape(2, -1).T.reshape(-1)  # (i, i + d/2) become neighbours
    np.testing.assert_allclose(
        lowered["layers.1.self_attn.q_norm.weight"], pairs / 4, rtol=1e-6
    )  # 1/sqrt(16)


@pytest.mark.parametrize("block_bytes", [1, 4 * 160 * 7, 1 << 20])
def test_a_matrix_read_in_slices_is_the_transposed_weight(tiny: Checkpoint, block_bytes: int) -> None:
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    matrix = Matrix(name, outputs=64, inputs=160, block_bytes=block_bytes)
    np.testing.assert_array_equal(materialize(matrix, tiny), tiny.read(name).T)
    assert all(part.nbytes <= max(block_bytes, 4 * 160) for part in matrix.columns(tiny))


def test_the_head_of_a_tied_checkpoint_is_its_embedding(tmp_path: Path) -> None:
    tied = open_checkpoint(write_checkpoint(tmp_path, golden_tensors(), tied=True))
    head = materialize(lowered_decoder(tied.config.decoder)["lm_head.weight"], tied)
    np.testing.assert_array_equal(head, golden_tensors()["language_model.model.embed_tokens.weight"].T)
