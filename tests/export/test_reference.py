"""The reference model against what upstream's code computed (tests/golden/tiny)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from neo_edge.config import load_config
from neo_edge_export.reference import KeyValueCache, NeoModel, allowed_by_time

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
CASES = ("text", "multi_image", "video")
ATOL = 1e-4  # the project's law for float32
Golden = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(scope="module")
def model() -> NeoModel:
    torch.set_num_threads(1)
    reference = NeoModel(load_config(GOLDEN)).eval()
    reference.load_state_dict(load_file(GOLDEN / "model.safetensors"))
    return reference


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{request.param}.npz", allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files if archive[name].ndim}


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) if expected.numel() else 0.0


def embed(model: NeoModel, golden: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = golden["input_ids"]
    visual = ids == model.config.img_context_token_id
    return model.embed(ids, visual, golden["pixel_values"], golden["grid_hw"])


@torch.no_grad()
def test_embeddings_equal_upstream(model: NeoModel, golden: dict[str, torch.Tensor]) -> None:
    assert worst(embed(model, golden)[0], golden["inputs_embeds"]) <= ATOL


@torch.no_grad()
def test_every_hidden_layer_and_logit_of_a_prefill_equals_upstream(
    model: NeoModel, golden: dict[str, torch.Tensor]
) -> None:
    positions = golden["indexes"][None]
    allow = allowed_by_time(positions[:, 0])
    assert torch.equal(allow[0, 0], golden["allow"])
    hidden: list[torch.Tensor] = []
    normed = model.language_model.model(embed(model, golden), positions, allow, hidden_layers=hidden)
    assert worst(torch.cat(hidden), golden["hidden_layers"]) <= ATOL
    assert worst(model.language_model.lm_head(normed)[0], golden["prefill_logits"]) <= ATOL


@torch.no_grad()
def test_cache_and_decode_equal_upstream_also_after_a_rewind(
    model: NeoModel, golden: dict[str, torch.Tensor]
) -> None:
    positions = golden["indexes"][None]
    length = positions.shape[2]
    cache = KeyValueCache.empty(model.config.decoder, capacity=length + 8)
    prefill = model.language_model(embed(model, golden), positions, allowed_by_time(positions[:, 0]), cache)
    for layer in range(model.config.decoder.num_layers):
        assert worst(cache.keys[layer][0, :, :length], golden["k_cache"][layer]) <= ATOL
        assert worst(cache.values[layer][0, :, :length], golden["v_cache"][layer]) <= ATOL
    assert worst(prefill[0, -1], golden["decode_logits"][0]) <= ATOL
    for _ in range(2):
        cache.length = length
        for step, thw in enumerate(golden["decode_indexes"]):
            embeds = model.language_model.model.embed_tokens(golden["decode_tokens"][step]).view(1, 1, -1)
            allow = torch.ones(1, 1, 1, cache.length + 1, dtype=torch.bool)
            logits = model.language_model(embeds, thw.view(1, 3, 1), allow, cache)
            assert worst(logits[0, 0], golden["decode_logits"][step + 1]) <= ATOL
