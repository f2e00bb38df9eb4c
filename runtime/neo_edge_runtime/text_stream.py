"""Token ids, one at a time -> pieces of text that are whole UTF-8 and never part of a stop string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no whole character
_UTF8_TAIL = 3  # a character of four bytes can lack its last: no more than three bytes are ever incomplete


class Decodes(Protocol):
    """A byte-level tokenizer: the bytes of a sequence are those of its tokens, one after the other."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str: ...


class Utf8Assembler:
    """Text of tokens as soon as it is settled: a token may end in the middle of a character."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []  # tokens that hold the unfinished character, and a few before
        self._given = 0  # characters of the pending tokens that were handed out

    def push(self, token: int) -> str:
        """The text that this token settles; empty while a character is unfinished."""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if not text.endswith(_REPLACEMENT):
            piece = text[self._given :]
            self._pending, self._given = [], 0
            return piece
        # One replacement stands for the unfinished tail; all before it can no longer change.
        piece = text[self._given : -1]
        self._given = len(text) - 1
        if len(self._pending) > _UTF8_TAIL:
            self._trim()
        return piece

    def finish(self) -> str:
        """What is left at the end, an unfinished character as the replacement character."""
        piece = self._tokenizer.decode(self._pending)[self._given :]
        self._pending, self._given = [], 0
        return piece

    def _trim(self) -> None:
        with_bytes = [token for token in self._pending if self._tokenizer.decode([token])]
        self._pending = with_bytes[-_UTF8_TAIL:]
        self._given = len(self._tokenizer.decode(self._pending)) - 1


class StopStrings:
    """Cuts text before the first stop string, and holds back what may become one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, piece: str) -> str:
        """The text that is now certain to stand before any stop string."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(text.find(stop), stop) for stop in self._stop if stop in text]
        if places:
            place, self.found = min(places)
            self._held = ""
            return text[:place]
        certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back for a stop string that did not come."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Tokens to pieces of the answer: whole characters, then stop strings."""

    def __init__(self, tokenizer: Decodes | None, stop: Sequence[str] = ()) -> None:
        """Without a tokenizer every piece is empty."""
        self._assembler = None if tokenizer is None else Utf8Assembler(tokenizer)
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._stop.found is not None

    def push(self, token: int) -> str:
        """The text that this token adds to the answer for certain."""
        return "" if self._assembler is None else self._stop.push(self._assembler.push(token))

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self._assembler is None:
            return ""
        return self._stop.push(self._assembler.finish()) + self._stop.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` and is not all of it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
