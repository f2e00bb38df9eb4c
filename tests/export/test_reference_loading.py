from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from neo_edge.checkpoint import EMBEDDING, open_checkpoint
from neo_edge.checkpoint_presets import preset_config
from neo_edge.random_checkpoint import write_random_checkpoint
from neo_edge_export import reference_loading
from neo_edge_export.reference_loading import StoredRows, load_reference


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_that_stays_in_its_file_gives_the_same_rows_unless_the_output_layer_shares_it(
    tmp_path: Path, tied: bool
) -> None:
    config = preset_config("tiny", layers=2)
    text = config["llm_config"]
    assert isinstance(text, dict)
    text["tie_word_embeddings"] = tied
    checkpoint = write_random_checkpoint(tmp_path / "x", config)
    whole = load_reference(checkpoint).language_model.model.embed_tokens
    stored = load_reference(checkpoint, stored_embedding=True).language_model.model.embed_tokens
    ids = torch.tensor([5, 0, 5, checkpoint.config.decoder.vocab_size - 1])
    assert type(stored) is (nn.Embedding if tied else StoredRows)
    assert torch.equal(stored(ids), whole(ids))
    assert stored(ids).dtype == torch.float32


def test_weights_that_are_widened_in_blocks_are_the_checkpoints(
    golden_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(golden_tiny)
    monkeypatch.setattr(reference_loading, "_BLOCK_BYTES", 1000)
    found = load_reference(checkpoint).language_model.model.embed_tokens.weight.numpy()
    assert (found == checkpoint.read(EMBEDDING)).all()
