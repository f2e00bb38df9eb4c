"""Each checkpoint that ships with the package is in the format of a published one, and small."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest

import neo_edge
from neo_edge.chat_template import CHAT_TEMPLATE_FILE
from neo_edge.checkpoint import open_checkpoint, resolve_checkpoint
from neo_edge.prompt import Message, encode_chat
from neo_edge.tokenizer import load_tokenizer

FOLDERS = sorted((Path(neo_edge.__file__).parent / "checkpoints").glob("*/"))


@pytest.fixture(params=[folder.name for folder in FOLDERS])
def directory(request: pytest.FixtureRequest) -> Path:
    return resolve_checkpoint(request.param)


def test_its_tensors_fit_its_config(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    stored = sum(entry.size_bytes for entry in checkpoint.tensors.values())
    assert 0 < stored <= 12_000_000


def test_it_has_the_files_of_a_published_checkpoint(directory: Path) -> None:
    expected = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
    }
    assert expected <= {path.name for path in directory.iterdir()}


def test_its_tokenizer_has_the_special_tokens_that_its_config_names(directory: Path) -> None:
    config = open_checkpoint(directory).config
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    tokens = tokenizer.special_tokens(config)
    assert tokens.img_context == config.img_context_token_id
    assert tokens.eos[0] == tokenizer.special_id("<|im_end|>")
    generation = json.loads((directory / "generation_config.json").read_text())
    ends = generation["eos_token_id"]
    assert set(ends if isinstance(ends, list) else [ends]) <= set(tokens.eos)


def test_its_chat_template_writes_the_prompts_that_the_runtime_writes(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    turns = [Message("user", "Where is it?"), Message("assistant", "Left."), Message("user", "And now?")]
    template = jinja2.Environment(autoescape=False).from_string(
        (directory / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    )
    rendered = template.render(
        messages=[
            {"role": "system", "content": "Look."},
            *[{"role": turn.role, "content": turn.text} for turn in turns],
        ],
        add_generation_prompt=True,
    )
    ids = encode_chat(tokenizer, turns, system="Look.")
    assert tokenizer.decode(ids, skip_special=False) == rendered
