"""A tiny byte-level tokenizer with NEO's control tokens, made with the `tokenizers` package itself."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from neo_edge.tokenizer_files import QWEN_PATTERN

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>")
MARKUP = ("<ref>", "</ref>", "<box>", "</box>")
PLAIN_ADDED = ("<think>",)
WORDS = ("he", "llo", "red", " ball", "user", "Reason")


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, and the merges that build a few words."""
    vocab = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        letters = word.replace(" ", "Ġ")
        for end in range(2, len(letters) + 1):
            if letters[:end] not in vocab:
                merges.append((letters[: end - 1], letters[end - 1]))
                vocab[letters[:end]] = len(vocab)
    return vocab, merges


def library_tokenizer() -> Tokenizer:
    """As the library builds it; added tokens follow the vocabulary."""
    vocab, merges = vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*SPECIAL, *MARKUP)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
    return tokenizer


def write_tokenizer_json(directory: Path) -> Path:
    """`tokenizer.json`, as newer checkpoints have it."""
    library_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def write_vocab_and_merges(directory: Path, *, gap: int = 0, config: bool = True) -> Path:
    """`vocab.json` and `merges.txt`, as older checkpoints have them; added tokens start after a gap of ids."""
    vocab, merges = vocabulary()
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *[" ".join(pair) for pair in merges], ""]
    (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    ids = {token: len(vocab) + gap + index for index, token in enumerate((*SPECIAL, *MARKUP, *PLAIN_ADDED))}
    (directory / "added_tokens.json").write_text(json.dumps(ids), encoding="utf-8")
    if config:
        decoder = {
            str(index): {"content": token, "special": token not in PLAIN_ADDED, "normalized": False}
            for token, index in ids.items()
        }
        text = json.dumps({"added_tokens_decoder": decoder})
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return directory
