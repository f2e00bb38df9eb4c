"""A session's caches: made when they are first needed, grown within a memory budget, given back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from neo_edge_runtime.cache_growth import grow
from neo_edge_runtime.kv_cache import cache_bytes, capacity_for
from neo_edge_runtime.memory import MemoryBudget, MemoryNeed, Reservation, prefill_need

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neo_edge_runtime.backend import Backend, DecoderState
    from neo_edge_runtime.prefill_plan import Chunk


class SessionCache:
    """The decoder state of one sequence, and what it takes of the budget."""

    def __init__(self, backend: Backend, budget: MemoryBudget, max_tokens: int | None) -> None:
        """None yet.

        Args:
            backend: makes it.
            budget: shared by the sessions of a model.
            max_tokens: most tokens that it may ever hold; None: no limit.
        """
        self._backend, self._budget, self._max_tokens = backend, budget, max_tokens
        self._reservation: Reservation | None = None
        self.state: DecoderState | None = None

    @property
    def capacity(self) -> int:
        """Tokens that fit before it grows."""
        return 0 if self.state is None else self.state.capacity

    def need(self, chunks: Sequence[Chunk], new_tokens: int, *, all_logits: bool) -> MemoryNeed:
        """What appending tokens in these chunks takes, growth included."""
        longest = max(chunk.end - chunk.start for chunk in chunks)
        return prefill_need(
            self._backend.traits,
            chunks=[(chunk.end - chunk.start, chunk.capacity) for chunk in chunks],
            new_tokens=new_tokens,
            logits_rows=longest if all_logits else 1,
            kept_rows=new_tokens if all_logits else 1,
            held_capacity=self.capacity,
        )

    @contextmanager
    def reserved(self, need: MemoryNeed, purpose: str) -> Iterator[None]:
        """Keeps `need` for the block; within another such block, that one's counts.

        Raises:
            MemoryBudgetError: it does not fit; nothing was allocated.
        """
        if self._reservation is not None:
            yield
            return
        with self._budget.reserve(need, purpose) as self._reservation:
            try:
                yield
            finally:
                self._reservation = None

    def with_capacity(self, capacity: int, *, used: int) -> DecoderState:
        """The state, with room for so many tokens; the first `used` stay. Call it in a `reserved` block."""
        before = self.capacity
        assert self._reservation is not None
        if self.state is None:
            self.state = self._backend.new_state(batch=1, capacity=capacity)
        elif capacity > before:
            grow(
                self.state,
                capacity,
                length=used,
                rows=1,
                limit=self._max_tokens,
                traits=self._backend.traits,
                budget=self._budget,
                reservation=self._reservation,
            )
        self._budget.hold(self._bytes(self.capacity) - self._bytes(before), self._reservation)
        return self.state

    def copy(self, length: int) -> SessionCache:
        """An independent one with the first `length` tokens.

        Raises:
            MemoryBudgetError: there is no room for it.
        """
        other = SessionCache(self._backend, self._budget, self._max_tokens)
        if self.state is not None and length:
            capacity = capacity_for(length, 0, self._max_tokens)
            need = MemoryNeed(kv_cache=self._bytes(capacity))
            with self._budget.reserve(need, f"a fork of {length} tokens") as reservation:
                other.state = self.state.copy(length=length, capacity=capacity)
                self._budget.hold(self._bytes(other.capacity), reservation)
        return other

    def close(self) -> None:
        """Gives the memory back; may be called twice."""
        state, self.state = self.state, None
        if state is not None:
            self._budget.hold(-self._bytes(state.capacity))
            state.close()

    def __del__(self) -> None:
        if getattr(self, "state", None) is not None:
            self.close()

    def _bytes(self, capacity: int) -> int:
        traits = self._backend.traits
        return cache_bytes(
            traits.config.decoder, batch=1, capacity=capacity, element_bytes=traits.cache_element_bytes
        )
