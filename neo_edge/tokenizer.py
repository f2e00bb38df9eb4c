"""Text to token ids and back, over the `tokenizers` package.

Text that people write never becomes a control token: `<|im_end|>` or `<img>` inside a question stays text.
The markup of grounding prompts, `<ref>`, `<box>` and `<quad>`, is meant to be written and does become tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend

from neo_edge.config import ModelConfig
from neo_edge.errors import TokenizerError
from neo_edge.tokenizer_files import AddedToken, TokenizerFile, read_tokenizer_file
from neo_edge.tokens import END_OF_TEXT, IM_END, IM_START, IMG_CONTEXT, IMG_END, IMG_START, SpecialTokens
from neo_edge.unicode_text import require_text

MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Tokens that a prompt may contain, such as `<ref>the red ball</ref>`."""

_CONTROL = (IMG_CONTEXT, IMG_START, IMG_END, IM_START, IM_END, END_OF_TEXT)

_log = logging.getLogger(__name__)


class Tokenizer:
    """Encodes and decodes as the checkpoint's own tokenizer does."""

    def __init__(self, directory: Path, file: TokenizerFile) -> None:
        self._directory = directory
        self._backend = _backend(file)
        self._skipped = {token.id for token in file.added if token.special}
        self._added = {token.id: token.content for token in file.added}

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; the model's embedding may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; control tokens that are spelled out in it stay text.

        Raises:
            PromptError: it is no text, or no Unicode (half of a surrogate pair).
        """
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            require_text(text, "the text")
            raise

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of the ids; tokens that the tokenizer files call special are left out unless told otherwise."""
        kept: Iterable[int] = (index for index in ids if index not in self._skipped) if skip_special else ids
        return self._backend.decode(list(kept), skip_special_tokens=False)

    def find_id(self, token: str) -> int | None:
        """Id of one token of the vocabulary, or None."""
        return self._backend.token_to_id(token)

    def special_id(self, token: str) -> int:
        """Id of one token; raises `TokenizerError` when the vocabulary lacks it."""
        found = self.find_id(token)
        if found is None:
            raise TokenizerError(
                f"the tokenizer has no token {token!r}: fetch the tokenizer files of the same checkpoint"
            )
        return found

    def special_tokens(self, config: ModelConfig) -> SpecialTokens:
        """The ids that the host must know; see `resolve_special_tokens`."""
        return resolve_special_tokens(self, config)

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that no text stands for: those that `decode` leaves out, and the model's control tokens."""
        known = (self.find_id(token) for token in _CONTROL)
        return frozenset(self._skipped).union(index for index in known if index is not None)

    def token_bytes(self, rows: int) -> list[bytes]:
        """The bytes that each id below `rows` adds to a text; empty for an id that has no token.

        Bytes that begin or end inside a character are given as they are: a byte-level vocabulary spells each of the
        256 as one printable character.
        """
        spelled = bytes_of_characters()
        found = [b""] * rows
        for token, index in self._backend.get_vocab(with_added_tokens=True).items():
            if index < rows:
                word = token.translate(spelled)
                # The library's decoder takes what is not spelled this way for the text itself.
                found[index] = word.encode("latin-1") if _is_spelled(token, spelled) else token.encode()
        for index, content in self._added.items():
            if index < rows:
                found[index] = content.encode()
        return found

    def to_json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`, whatever files it was read from."""
        # Kept as Python objects, Qwen's 150,000 words would take more memory than the library's own copy.
        file = read_tokenizer_file(self._directory)
        if file is None:
            raise TokenizerError(f"the tokenizer files are no longer in {self._directory}: put them back")
        return file.json_text


def load_tokenizer(directory: str | Path) -> Tokenizer | None:
    """Reads `tokenizer.json`, else `vocab.json` and `merges.txt`, of a checkpoint or bundle directory.

    Returns:
        None when the directory has neither; prompts must then be token ids.

    Raises:
        TokenizerError: a file is broken, or one of the pair is missing.
    """
    file = read_tokenizer_file(Path(directory))
    return None if file is None else Tokenizer(Path(directory), file)


def resolve_special_tokens(tokenizer: Tokenizer | None, config: ModelConfig) -> SpecialTokens:
    """The ids of image tokens and ends of text: from the tokenizer, and where it is silent from config.json.

    Raises:
        TokenizerError: neither knows an image token, or an id is beyond the embedding.
    """

    def resolve(token: str, configured: int | None) -> int:
        found = None if tokenizer is None else tokenizer.find_id(token)
        if found is None:
            found = configured
        elif configured not in (None, found):
            _log.warning(
                "config.json gives %s the id %s; the tokenizer's %s is used", token, configured, found
            )
        if found is None:
            raise TokenizerError(
                f"neither the tokenizer nor config.json gives an id to {token}: fetch the checkpoint's "
                "tokenizer files, or add the id to config.json"
            )
        return found

    ends = [] if tokenizer is None else [tokenizer.find_id(token) for token in (IM_END, END_OF_TEXT)]
    eos = tuple(dict.fromkeys([*(index for index in ends if index is not None), *config.eos_token_id]))
    tokens = SpecialTokens(
        img_context=resolve(IMG_CONTEXT, config.img_context_token_id),
        img_start=resolve(IMG_START, config.img_start_token_id),
        img_end=resolve(IMG_END, config.img_end_token_id),
        eos=eos,
    )
    largest = max(tokens.img_context, tokens.img_start, tokens.img_end, *tokens.eos)
    if largest >= config.decoder.vocab_size:
        raise TokenizerError(
            f"token id {largest} is beyond the model's vocabulary of {config.decoder.vocab_size}: tokenizer and "
            "config.json are of different checkpoints"
        )
    return tokens


def _backend(file: TokenizerFile) -> Backend:
    """The library's tokenizer, told which added tokens may come out of text."""
    changed = [
        AddedToken(token.id, token.content, special=_stays_text(token), raw=token.raw) for token in file.added
    ]
    try:
        backend: Backend = Backend.from_str(file.with_added(changed))
    except BaseException as error:
        # The library raises no narrower class, and where its Rust panics one that is not even an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{file.source} is no tokenizer that can be read ({error}): fetch it again"
        ) from error
    backend.encode_special_tokens = True
    if not backend.encode("a", add_special_tokens=False).ids:
        raise TokenizerError(
            f"{file.source} turns the letter a into nothing: its vocabulary is empty, fetch it again"
        )
    for token in file.added:
        found = backend.token_to_id(token.content)
        if found != token.id:
            raise TokenizerError(
                f"{file.source} gives {token.content!r} the id {token.id} and loads with {found}: fetch it again"
            )
    return backend


def bytes_of_characters() -> dict[int, str]:
    """For `str.translate`: GPT-2's printable character of each byte -> the character of that code.

    Bytes that are printable in Latin-1 stand for themselves, and the others for the characters from 256 on, in order.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {256 + n: chr(byte) for n, byte in enumerate(others)}


def _is_spelled(token: str, spelled: dict[int, str]) -> bool:
    return all(ord(character) in spelled for character in token)


def _stays_text(token: AddedToken) -> bool:
    return token.content in _CONTROL or (token.special and token.content not in MARKUP)
