"""Broken tokenizer files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from bad_row import Action, Place, Row

from neo_edge.config import load_config
from neo_edge.errors import TokenizerError
from neo_edge.prompt import Message, encode_chat
from neo_edge.tokenizer import Tokenizer, load_tokenizer, resolve_special_tokens

AGAIN = "fetch it again"


def file(broken: str, text: str | bytes, *words: str, name: str = "tokenizer.json") -> Row:
    def prepare(place: Place) -> Action:
        (place.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return lambda: load_tokenizer(place.folder)

    return Row(broken, prepare, TokenizerError, words)


def changed(
    broken: str,
    change: Callable[[dict[str, Any]], object],
    *words: str,
    use: Callable[[Tokenizer], object] = lambda tokenizer: tokenizer.encode("a"),
) -> Row:
    """The tiny model's tokenizer.json with a change, loaded and used."""

    def prepare(place: Place) -> Action:
        data = json.loads((place.checkpoint / "tokenizer.json").read_text())
        change(data)
        (place.folder / "tokenizer.json").write_text(json.dumps(data))
        shutil.copy(place.checkpoint / "config.json", place.folder)

        def load_and_use() -> object:
            tokenizer = load_tokenizer(place.folder)
            assert tokenizer is not None
            return use(tokenizer)

        return load_and_use

    return Row(broken, prepare, TokenizerError, words)


def ask(tokenizer: Tokenizer) -> list[int]:
    return encode_chat(tokenizer, [Message("user", "hello")])


def renamed(token: str) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for row in data["added_tokens"]:
            row["content"] = row["content"].replace(token, "<|something else|>")

    return change


def _shifted(data: dict[str, Any]) -> None:
    for row in data["added_tokens"]:
        row["id"] += 5


def _nothing(place: Place) -> Action:
    return lambda: load_tokenizer(place.folder)


def _of_another_model(place: Place) -> Action:
    tokenizer = load_tokenizer(place.checkpoint)
    data = load_config(place.checkpoint).to_dict()
    data["decoder"]["vocab_size"] = 300
    config = type(load_config(place.checkpoint)).from_dict(data)
    return lambda: resolve_special_tokens(tokenizer, config)


PANICS = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
REGEX = {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}
TOKENIZER_ROWS = (
    Row("no tokenizer: token ids only", _nothing, None, gives=lambda found: found is None),
    Row(
        "of a larger model", _of_another_model, TokenizerError, ("beyond the model's vocabulary", "different")
    ),
    file("an empty file", "", "cannot be read as JSON", AGAIN),
    file("half a file", '{"model": {"type": "BPE", "vocab": {"a"', "cannot be read as JSON", AGAIN),
    file("bytes that are no UTF-8", b"\xff\xfe\x00", "cannot be read as JSON", AGAIN),
    file("a list", "[]", "not an object", AGAIN),
    file("a number of 5,000 digits", '{"a": ' + "1" * 5000 + "}", "cannot be read as JSON", AGAIN),
    file("no model", "{}", "lacks a model", AGAIN),
    file("a vocabulary without merges", '{"a": 0}', "without merges.txt", "fetch both", name="vocab.json"),
    file("merges without a vocabulary", "a b", "without vocab.json", "fetch both", name="merges.txt"),
    changed(
        "an empty vocabulary",
        lambda d: d["model"].update(vocab={}, merges=[]),
        "its vocabulary is empty",
        AGAIN,
    ),
    changed(
        "a vocabulary of added tokens alone",
        lambda d: (d["model"].update(vocab={}, merges=[]), d.update(added_tokens=[])),
        "its vocabulary is empty",
        AGAIN,
    ),
    changed(
        "a model nobody knows",
        lambda d: d["model"].update(type="Magic"),
        "no tokenizer that can be read",
        AGAIN,
    ),
    changed("merges of unknown tokens", lambda d: d["model"].update(merges=[["q", "zz"]]), "zz", AGAIN),
    changed(
        "an id below zero", lambda d: d["model"]["vocab"].update(a=-1), "no tokenizer that can be read", AGAIN
    ),
    changed("a broken regular expression", lambda d: d.update(pre_tokenizer=REGEX), "parenthesis", AGAIN),
    changed(
        "data that makes the library panic", lambda d: d.update(normalizer=PANICS), "no tokenizer that", AGAIN
    ),
    changed(
        "an added token without a name", lambda d: d["added_tokens"][0].update(content=""), "malformed", AGAIN
    ),
    changed("added tokens in another place", _shifted, "loads with", AGAIN),
    changed(
        "no <|im_start|>", renamed("<|im_start|>"), "no token '<|im_start|>'", "same checkpoint", use=ask
    ),
)
