"""What `neo-edge make-checkpoint` writes is a model: it exports, verifies, and its signal lives at any depth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from neo_edge.checkpoint_presets import preset_config
from neo_edge.cli import main
from neo_edge.random_checkpoint import write_random_checkpoint
from neo_edge_export.graph_comparison import run_reference
from neo_edge_export.random_prompt import random_prompt
from neo_edge_export.reference_loading import load_reference


def test_the_tiny_preset_exports_verifies_and_answers_token_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = str(tmp_path / "checkpoint"), str(tmp_path / "bundle")
    assert main(["make-checkpoint", "--preset", "tiny", "-o", checkpoint]) == 0
    assert main(["export", checkpoint, "-o", bundle, "--precision", "fp32", "--precision", "fp16"]) == 0
    assert main(["verify", bundle]) == 0
    capsys.readouterr()
    asked = ["run", bundle, "5, 6 7", "--token-ids", "--max-new-tokens", "4", "--threads", "1"]
    assert main(asked) == 0
    ids = capsys.readouterr().out.split()
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == list(map(int, ids))


def test_activations_neither_die_nor_explode_through_forty_layers(tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "x", preset_config("tiny", layers=40))
    model = load_reference(checkpoint)
    sizes: list[float] = []

    def record(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        sizes.append(float(output.square().mean().sqrt()))

    for layer in model.language_model.model.layers:
        layer.register_forward_hook(record)
    found = run_reference(model, random_prompt(checkpoint.config, None, 0))
    assert len(sizes) == 40
    assert 0.05 < min(sizes) <= max(sizes) < 2
    assert 0.05 < float(found.visual_tokens.std()) / 64**-0.5 < 2, "as large as the embeddings"
    assert 0.3 < float(found.logits.std()) < 3
    assert len(set(found.logits.argmax(axis=1).tolist())) > 10, "the answer depends on the prompt"
