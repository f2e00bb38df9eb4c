"""The tokenizer files of a checkpoint, as the one JSON text that the `tokenizers` package reads.

Newer checkpoints have `tokenizer.json`. Older ones have Qwen2's `vocab.json` and `merges.txt`, with the
added tokens in `added_tokens.json` or `tokenizer_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neo_edge.errors import TokenizerError
from neo_edge.json_file import read_json_object

# Qwen2's split of text into words, numbers digit by digit, punctuation and space.
# Source: the pre_tokenizer of Qwen2/Qwen3's published tokenizer.json.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class AddedToken:
    """A token outside the byte-pair vocabulary."""

    id: int
    content: str
    special: bool  # left out when decoding for people
    raw: dict[str, object]  # the remaining flags, as the file has them


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer as text, and its added tokens."""

    source: Path  # the file that messages name
    data: dict[str, object]
    added: tuple[AddedToken, ...]

    @property
    def json_text(self) -> str:
        """The text of a `tokenizer.json`."""
        return self.with_added(self.added)

    def with_added(self, added: Sequence[AddedToken]) -> str:
        """The same tokenizer with these added tokens."""
        rows = [
            {**token.raw, "id": token.id, "content": token.content, "special": token.special}
            for token in added
        ]
        return json.dumps({**self.data, "added_tokens": rows}, ensure_ascii=False)


def read_tokenizer_file(directory: Path) -> TokenizerFile | None:
    """The tokenizer of a directory, or None when it has none; raises `TokenizerError` for a broken one."""
    whole, vocab, merges = (directory / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        data = read_json_object(whole, TokenizerError)
        rows = data.get("added_tokens", [])
        if not isinstance(rows, list) or not isinstance(data.get("model"), dict):
            raise TokenizerError(f"{whole} lacks a model or its added tokens: fetch it again")
        data |= {"truncation": None, "padding": None}  # a prompt is neither cut nor filled up behind its back
        return TokenizerFile(whole, data, tuple(_added_token(whole, row) for row in rows))
    if vocab.is_file() and merges.is_file():
        return _from_vocab_and_merges(directory, vocab, merges)
    if vocab.is_file() or merges.is_file():
        present, absent = (vocab, merges) if vocab.is_file() else (merges, vocab)
        raise TokenizerError(f"{directory} has {present.name} without {absent.name}: fetch both")
    return None


def _from_vocab_and_merges(directory: Path, vocab: Path, merges: Path) -> TokenizerFile:
    words = read_json_object(vocab, TokenizerError)
    if not words or not all(type(index) is int for index in words.values()):
        raise TokenizerError(f"{vocab} does not map tokens to ids: fetch it again")
    added = _added_tokens(directory)
    # In the vocabulary itself an added token keeps its id; added beside it, it would get the next free one.
    words |= {token.content: token.id for token in added}
    data: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": words,
            "merges": _read_merges(merges),
        },
    }
    return TokenizerFile(vocab, data, tuple(added))


def _added_tokens(directory: Path) -> list[AddedToken]:
    """From `tokenizer_config.json`, which knows the flags, and `added_tokens.json`, which knows only ids."""
    tokens: dict[str, AddedToken] = {}
    config = directory / "tokenizer_config.json"
    if config.is_file():
        decoder = read_json_object(config, TokenizerError).get("added_tokens_decoder", {})
        if not isinstance(decoder, dict):
            raise TokenizerError(f"{config}: added_tokens_decoder is no object: fetch it again")
        for index, row in decoder.items():
            flags = row if isinstance(row, dict) else {}
            token = _added_token(config, {**flags, "id": int(index) if str(index).isdigit() else None})
            tokens[token.content] = token
    plain = directory / "added_tokens.json"
    if plain.is_file():
        for content, index in read_json_object(plain, TokenizerError).items():
            if content not in tokens:
                tokens[content] = _added_token(plain, {"id": index, "content": content, "special": True})
    return sorted(tokens.values(), key=lambda token: token.id)


def _added_token(source: Path, row: object) -> AddedToken:
    if isinstance(row, dict):
        index, content, special = row.get("id"), row.get("content"), row.get("special", False)
        if type(index) is int and index >= 0 and isinstance(content, str) and content:
            flags = {
                key: bool(row.get(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized")
            }
            return AddedToken(index, content, bool(special), dict(flags))
    raise TokenizerError(f"{source} has a malformed added token {row!r}: fetch it again")


def _read_merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read ({error}): fetch it again") from error
    rows = [line.rstrip("\r") for line in lines]
    if rows and rows[0].startswith("#version"):
        rows = rows[1:]
    rows = [row for row in rows if row]
    broken = next((row for row in rows if row.count(" ") != 1), None)
    if broken is not None:
        raise TokenizerError(f"{path} has the line {broken!r}, which is no pair of tokens: fetch it again")
    return rows
