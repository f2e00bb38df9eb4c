"""Prefill and decoding through a `Session`, behind contexts of chosen lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neo_edge_runtime.bench.prompts import text_prompt
from neo_edge_runtime.bench.timing import Contender
from neo_edge_runtime.context_room import require_room
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.session import Session

if TYPE_CHECKING:
    from neo_edge.tokens import SpecialTokens
    from neo_edge_runtime.backend import Backend


@dataclass(frozen=True)
class TextTest:
    """One row: `pp` prefills that many tokens at once, `tg` decodes them one by one."""

    kind: Literal["pp", "tg"]
    tokens: int
    depth: int  # tokens in the cache before

    @property
    def name(self) -> str:
        """As llama-bench writes it."""
        return f"{self.kind}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def past(self) -> int:
        """Tokens in the cache when it starts; decoding needs one to follow."""
        return max(self.depth, 1) if self.kind == "tg" else self.depth


class TextRun:
    """A session at a test's depth; close it, or use it in a `with` statement."""

    def __init__(self, backend: Backend, tokens: SpecialTokens, test: TextTest) -> None:
        """Prefills the context.

        Raises:
            ContextOverflowError, MemoryBudgetError: the test is too long for the model or the machine.
        """
        self._backend, self._tokens, self.test = backend, tokens, test
        self._config = backend.traits.config
        # Before so many tokens are drawn.
        end, traits = test.past + test.tokens, backend.traits
        require_room(0, end, end, max_tokens=traits.max_context_tokens, traits=traits)
        self._prompt = text_prompt(self._config, tokens, test.tokens)
        self._token = int(self._prompt.input_ids[0])
        self.session = Session(backend)
        if test.past:
            self._append(test.past)
        if test.kind == "tg":
            self._append(test.tokens)
            # The cache beyond the context holds numbers too: untouched pages are one shared page, and fast.
            room = min(self.session.capacity, self._config.decoder.max_positions) - self.session.length
            if room:
                self._append(room)

    def contender(self, tokens: int | None = None) -> Contender:
        """What is timed, from the same point each time; `tokens` fewer than the test's for a try."""
        if self.test.kind == "tg":
            count = tokens or self.test.tokens
            return Contender(lambda: self._decode(count), prepare=self._rewind)
        return Contender(
            lambda: self._prompt.append_to(self.session),
            prepare=self._rewind if self.test.past else self._renew,
        )

    @property
    def cache_bytes(self) -> int:
        """What a decode step reads of the cache, at the middle of the run."""
        traits = self._backend.traits
        visible = self.test.past + self.test.tokens // 2
        return cache_bytes(
            traits.config.decoder, batch=1, capacity=visible, element_bytes=traits.cache_element_bytes
        )

    def close(self) -> None:
        """Gives the cache's memory back."""
        self.session.close()

    def __enter__(self) -> TextRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, size: int) -> None:
        text_prompt(self._config, self._tokens, size).append_to(self.session)

    def _decode(self, count: int) -> None:
        for _ in range(count):
            self.session.decode(self._token)

    def _rewind(self) -> None:
        self.session.rewind(self.session.checkpoint_at(self.test.past))

    def _renew(self) -> None:
        """An empty session, whose caches' allocation is part of its first prefill."""
        self.session.close()
        self.session = Session(self._backend)
