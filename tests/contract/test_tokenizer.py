from __future__ import annotations

import json
import logging
import unicodedata
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import (
    SPECIAL,
    library_tokenizer,
    vocabulary,
    write_tokenizer_json,
    write_vocab_and_merges,
)

from neo_edge.config import ModelConfig, load_config
from neo_edge.errors import TokenizerError
from neo_edge.tokenizer import Tokenizer, load_tokenizer, resolve_special_tokens
from neo_edge.tokens import SpecialTokens

TEXTS = [
    "hello red ball",
    "Reason step by step.\n\n  user's 1234\t!",
    "请直接回答选项字母。",
    "naïve café 😀👩‍🚀 ‮",
    "\r\n trailing   ",
    "",
]


def load(directory: Path) -> Tokenizer:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return load(write_tokenizer_json(tmp_path))


@pytest.fixture
def config(golden_tiny: Path) -> ModelConfig:
    """Golden config with room for the tiny tokenizer's ids and none of its own."""
    config = load_config(golden_tiny)
    return replace(
        config,
        decoder=replace(config.decoder, vocab_size=1000),
        img_context_token_id=None,
        img_start_token_id=None,
        img_end_token_id=None,
    )


@pytest.mark.parametrize("text", TEXTS)
def test_ordinary_text_encodes_as_the_library_does(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == library_tokenizer().encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_vocab_and_merges_give_the_same_ids_as_tokenizer_json(tmp_path: Path, text: str) -> None:
    assert load(write_vocab_and_merges(tmp_path)).encode(text) == library_tokenizer().encode(text).ids


def test_any_text_survives_encoding_and_decoding(tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = load(write_tokenizer_json(tmp_path_factory.mktemp("tokenizer")))

    # NFC first, because the tokenizer normalizes to it.
    @given(st.text(alphabet=st.characters(codec="ascii") | st.sampled_from("é😀中\u200d")))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text

    check()


@pytest.mark.parametrize("token", SPECIAL)
def test_a_control_token_that_is_spelled_out_stays_text(tokenizer: Tokenizer, token: str) -> None:
    ids = tokenizer.encode(f"say {token} please")
    assert tokenizer.special_id(token) not in ids
    assert tokenizer.decode(ids) == f"say {token} please"


def test_control_tokens_stay_text_even_when_the_file_calls_them_ordinary(tmp_path: Path) -> None:
    data = json.loads((write_tokenizer_json(tmp_path) / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = load(tmp_path)
    assert tokenizer.special_id("<img>") not in tokenizer.encode("an <img> here")


def test_grounding_markup_in_a_prompt_becomes_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<ref>red ball</ref>")
    assert ids[0] == tokenizer.special_id("<ref>")
    assert ids[-1] == tokenizer.special_id("</ref>")
    assert tokenizer.decode(ids) == "red ball"
    assert tokenizer.decode(ids, skip_special=False) == "<ref>red ball</ref>"


def test_ordinary_added_tokens_are_kept_when_special_ones_are_skipped(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("<think>hello"), tokenizer.special_id("<|im_end|>")]
    assert ids[0] == tokenizer.special_id("<think>")
    assert tokenizer.decode(ids) == "<think>hello"


@pytest.mark.parametrize("gap", [0, 26])
def test_added_tokens_keep_the_ids_of_their_files(tmp_path: Path, gap: int) -> None:
    tokenizer = load(write_vocab_and_merges(tmp_path, gap=gap))
    assert tokenizer.special_id("<|endoftext|>") == len(vocabulary()[0]) + gap
    assert tokenizer.special_id("<img>") == len(vocabulary()[0]) + gap + SPECIAL.index("<img>")


def test_added_tokens_json_alone_is_enough(tmp_path: Path) -> None:
    tokenizer = load(write_vocab_and_merges(tmp_path, config=False))
    assert tokenizer.special_id("<img>") not in tokenizer.encode("<img>")
    assert tokenizer.decode([tokenizer.special_id("<|im_end|>")]) == ""


@pytest.mark.parametrize("write", [write_tokenizer_json, write_vocab_and_merges])
def test_the_text_of_tokenizer_json_reads_back_the_same(tmp_path: Path, write: object) -> None:
    assert callable(write)
    first = load(write(tmp_path))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tokenizer.json").write_text(first.to_json(), encoding="utf-8")
    second = load(copy)
    for text in [*TEXTS, "<img> <ref>x</ref> <think>"]:
        assert second.encode(text) == first.encode(text)
        assert second.decode(first.encode(text)) == first.decode(first.encode(text))
    assert second.special_id("</img>") == first.special_id("</img>")


def test_truncation_in_the_file_cuts_no_prompt(tmp_path: Path) -> None:
    data = json.loads((write_tokenizer_json(tmp_path) / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert len(load(tmp_path).encode("0123456789")) == 10


def test_a_directory_without_a_tokenizer_gives_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


@pytest.mark.parametrize("lost", ["vocab.json", "merges.txt"])
def test_half_of_a_pair_is_refused(tmp_path: Path, lost: str) -> None:
    (write_vocab_and_merges(tmp_path) / lost).unlink()
    with pytest.raises(TokenizerError, match=f"without {lost}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {}}'),
        ("tokenizer.json", '{"model": {}, "added_tokens": [{"id": "x"}]}'),
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": "b"}'),
        ("merges.txt", "a b c\n"),
        ("merges.txt", "zz yy\n"),
        ("added_tokens.json", '{"<img>": -1}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "<img>"}}}'),
    ],
)
def test_a_broken_file_is_a_typed_error(tmp_path: Path, file: str, text: str) -> None:
    write_vocab_and_merges(tmp_path, config=False)
    (tmp_path / file).write_text(text)
    with pytest.raises(TokenizerError, match="again"):
        load_tokenizer(tmp_path)


def test_added_tokens_with_ids_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    data = json.loads((write_tokenizer_json(tmp_path) / "tokenizer.json").read_text())
    data["added_tokens"][-1]["id"] += 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match="<think>"):
        load_tokenizer(tmp_path)


def test_special_ids_come_from_the_tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> None:
    first = len(vocabulary()[0])
    assert tokenizer.special_tokens(config) == SpecialTokens(
        img_context=first + 3, img_start=first + 4, img_end=first + 5, eos=(first + 2, first)
    )


def test_special_ids_come_from_the_config_without_a_tokenizer(golden_tiny: Path) -> None:
    assert resolve_special_tokens(None, load_config(golden_tiny)) == SpecialTokens(317, 318, 319, ())


def test_the_tokenizer_wins_over_the_config_and_says_so(
    tokenizer: Tokenizer, config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = tokenizer.special_tokens(replace(config, img_start_token_id=7))
    assert found.img_start == tokenizer.special_id("<img>")
    assert "<img>" in caplog.text


def test_an_id_that_nobody_knows_is_refused(config: ModelConfig) -> None:
    with pytest.raises(TokenizerError, match="neither the tokenizer nor config.json"):
        resolve_special_tokens(None, config)


def test_ids_beyond_the_embedding_are_refused(tokenizer: Tokenizer, config: ModelConfig) -> None:
    small = replace(config, decoder=replace(config.decoder, vocab_size=100))
    with pytest.raises(TokenizerError, match="vocabulary of 100"):
        tokenizer.special_tokens(small)


@pytest.mark.parametrize("ids", [(1, 1, 2, (3,)), (1, 2, 3, (3,)), (-1, 2, 3, ())])
def test_special_ids_that_coincide_are_refused(ids: tuple[int, int, int, tuple[int, ...]]) -> None:
    with pytest.raises(TokenizerError, match="distinct"):
        SpecialTokens(*ids)


def test_a_token_that_the_vocabulary_lacks_is_a_typed_error(tokenizer: Tokenizer) -> None:
    assert tokenizer.find_id("<nope>") is None
    with pytest.raises(TokenizerError, match="<nope>"):
        tokenizer.special_id("<nope>")


@cache
def shared_tokenizer() -> Tokenizer:
    with TemporaryDirectory() as directory:
        tokenizer = load_tokenizer(write_tokenizer_json(Path(directory)))
    assert tokenizer is not None
    return tokenizer


@given(st.text(max_size=40) | st.sampled_from(TEXTS))
def test_the_bytes_of_a_texts_tokens_are_the_text(text: str) -> None:
    tokenizer = shared_tokenizer()
    spelled = tokenizer.token_bytes(tokenizer.vocab_size)
    joined = b"".join(spelled[token] for token in tokenizer.encode(text))
    assert joined == unicodedata.normalize("NFC", text).encode()


def test_each_token_has_the_bytes_that_decoding_writes_and_rows_behind_them_have_none() -> None:
    tokenizer = shared_tokenizer()
    spelled = tokenizer.token_bytes(tokenizer.vocab_size + 3)
    assert spelled[-3:] == [b"", b"", b""]
    for token, word in enumerate(spelled[:-3]):
        assert word.decode("utf-8", "replace") == tokenizer.decode([token], skip_special=False)
    assert tokenizer.token_bytes(2) == spelled[:2]
    assert bytes(range(256)) == bytes(sorted(set(b"".join(spelled))))


def test_control_ids_are_what_no_text_stands_for() -> None:
    tokenizer = shared_tokenizer()
    controls = {tokenizer.special_id(token) for token in SPECIAL}
    assert controls <= tokenizer.control_ids
    assert tokenizer.special_id("<think>") not in tokenizer.control_ids
    assert all(tokenizer.decode([token]) == "" for token in controls)
