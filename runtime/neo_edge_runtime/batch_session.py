"""Sequences that decode together: a step reads the weights once for all, and each stands at its own length.

All share one cache of [rows, kv_heads, C, width], filled from its first row on. A sequence that leaves makes a gap;
before the next step the last one moves into it, so that a step computes and reads nothing for those that have left.
Attention's cost follows C, which is the longest sequence's, in all rows: sequences of like lengths share well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import BackendError, InputError, MemoryBudgetError, NeoEdgeError, SessionClosedError
from neo_edge_runtime.cache_growth import grow
from neo_edge_runtime.context_room import require_room
from neo_edge_runtime.decoder_inputs import decode_inputs, unknown_token
from neo_edge_runtime.kv_cache import cache_bytes, capacity_for
from neo_edge_runtime.memory import MemoryBudget, MemoryNeed, Reservation, prefill_need

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from neo_edge_runtime.backend import Backend, DecoderInputs, DecoderState
    from neo_edge_runtime.session import Session

DEFAULT_BATCH_SIZE = 8
_CURE = "pass a smaller batch_size, shorter prompts, smaller pictures (max_pixels) or a float16 variant"


@dataclass(eq=False)
class BatchRow:
    """A sequence of a batch; the batch moves it on."""

    length: int  # tokens in the cache
    next_t: int  # t of a text token that would follow


class BatchSession:
    """Prefilled sessions' sequences, decoded together. Not for two threads at once.

        with BatchSession(backend, rows=2) as batch:
            rows = [batch.join(session) for session in (left, right)]
            logits = batch.decode(dict(zip(rows, (7, 8))))  # [2, V] float32: behind the 7, behind the 8

    Prompts are prefilled one at a time, in sessions of their own: the tokens of a picture keep the processor busy by
    themselves. A common prefill would gain with prompts of a few dozen tokens only, and compute the shorter ones'
    padding with others (`tests/evidence/batch_cost.py` times both).
    """

    def __init__(
        self,
        backend: Backend,
        *,
        rows: int,
        budget: MemoryBudget | None = None,
        max_context_tokens: int | None = None,
    ) -> None:
        """An empty batch; its cache is allocated when the first sequence joins, and given back with the last.

        Args:
            backend: that of the sessions that will join.
            rows: most sequences at once.
            budget: shared by the sessions of a model; None: only what the machine has free.
            max_context_tokens: most tokens of a sequence; None: the model's positions and the memory decide.
        """
        if rows < 1:
            raise InputError(f"a batch of {rows} rows holds nothing; it must be 1 or above")
        self._backend, self._budget = backend, budget or MemoryBudget.of(backend)
        self._max_rows, self._max_tokens = rows, backend.traits.within(max_context_tokens, 1)[0]
        self._state: DecoderState | None = None
        self._closed = False
        self._places: list[BatchRow | None] = []  # by row of the cache; None: a gap
        self._held_bytes = 0
        self._step: DecoderInputs | None = None

    @property
    def rows(self) -> tuple[BatchRow, ...]:
        """The sequences."""
        return tuple(row for row in self._places if row is not None)

    @property
    def capacity(self) -> int:
        """C: tokens of the longest sequence that fit before the cache grows."""
        return 0 if self._state is None else self._state.capacity

    def expect(self, rows: int) -> None:
        """No more sequences than this will be here at once; the others' memory goes when the cache next grows."""
        self._max_rows = max(1, len(self.rows), min(self._max_rows, rows))

    def need(self, length: int) -> MemoryNeed:
        """What a sequence of `length` tokens takes that joins and goes on; its own session comes on top."""
        capacity = self._capacity_for(length + 1)
        steps = prefill_need(
            self._backend.traits,
            chunks=[(1, capacity)],
            new_tokens=1,
            logits_rows=1,
            held_capacity=capacity,
            batch=self._max_rows,
        )
        return steps + MemoryNeed(kv_cache=max(0, self._bytes(capacity) - self._held_bytes))

    def join(self, session: Session) -> BatchRow:
        """Copies a prefilled session's sequence in; the session stays as it is, and may be closed.

        Raises:
            InputError: the batch is full, or the session is empty.
            MemoryBudgetError: the cache would have to grow, and may not; nothing has changed.
            SessionClosedError: the batch or the session is closed.
        """
        self._require_open()
        if len(self.rows) == self._max_rows:
            raise InputError(f"the batch holds {self._max_rows} sequences and no more: let one leave first")
        state = self._room_for(session.length + 1)
        place = self._places.index(None) if None in self._places else len(self._places)
        try:
            session.copy_to(state, place)
        except (InputError, SessionClosedError):
            self._drop_if_empty()
            raise
        row = BatchRow(session.length, session.next_t)
        self._places[place : place + 1] = [row]
        return row

    def leave(self, row: BatchRow) -> None:
        """Forgets a sequence; the others stay. Raises `InputError` when it is not here."""
        self._places[self._place(row)] = None
        self._drop_if_empty()

    def reserve(self, row: BatchRow) -> None:
        """Makes sure of room for the row's next token; the cache of all grows when this one's is full.

        Raises:
            ContextOverflowError, MemoryBudgetError: there is none; nothing has changed, and the others may go on.
            InputError: the row is not here.
        """
        self._place(row)
        require_room(row.length, 1, row.next_t + 1, max_tokens=self._max_tokens, traits=self._backend.traits)
        self._room_for(row.length + 1)

    def decode(self, tokens: Mapping[BatchRow, int]) -> npt.NDArray[np.float32]:
        """Appends one text token to every sequence.

        Args:
            tokens: the token of each row that is here.

        Returns:
            [B, V] float32 logits of what follows, in the order of `tokens`; the caller's own.

        Raises:
            ContextOverflowError, MemoryBudgetError, InputError: nothing has changed.
            SessionClosedError: the batch is closed, or a logit is not finite (then it is closed now).
            BackendError: the run failed; the sequences stand where they stood.
        """
        rows, logits = self._run(tokens)
        if not np.isfinite(logits).all():
            error = _not_finite([row.length for row in rows], "batch is closed")
            self.close()
            raise error
        _advance(rows)
        places = {row: place for place, row in enumerate(rows)}
        return logits[[places[row] for row in tokens]]

    def decode_each(
        self, tokens: Mapping[BatchRow, int]
    ) -> dict[BatchRow, npt.NDArray[np.float32] | NeoEdgeError]:
        """As `decode`, but what fails in a sequence is its own: it leaves, and the others go on.

        When a run of all fails, each takes this step alone, in a cache beside the common one: who failed is known then.

        Returns:
            Logits [V] of each row, the caller's own; or its `BackendError`, the `SessionClosedError` of a logit that is
            not finite, or the `MemoryBudgetError` of a step alone.

        Raises:
            ContextOverflowError, MemoryBudgetError, InputError: nothing has changed.
            SessionClosedError: the batch is closed.
        """
        try:
            rows, logits = self._run(tokens)
        except BackendError as error:
            if len(tokens) > 1:
                return {row: self._decode_alone(row, tokens) for row in tokens}
            self.leave(next(iter(tokens)))
            return dict.fromkeys(tokens, error)
        finite = [bool(np.isfinite(row_logits).all()) for row_logits in logits]
        healthy = [row for row, good in zip(rows, finite, strict=True) if good]
        found: dict[BatchRow, npt.NDArray[np.float32] | NeoEdgeError] = {}
        for row, row_logits in zip(rows, logits, strict=True):
            if row in healthy:
                found[row] = row_logits.copy()
            else:
                found[row] = _not_finite([row.length], "sequence has left the batch")
                self._leave_spoilt(row, healthy)
        _advance(healthy)
        return {row: found[row] for row in tokens}

    def close(self) -> None:
        """Gives the cache's memory back; may be called twice."""
        self._closed = True
        self._places.clear()
        self._drop_if_empty()

    def __enter__(self) -> BatchSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_state", None) is not None:
            self.close()

    def _run(self, tokens: Mapping[BatchRow, int]) -> tuple[tuple[BatchRow, ...], npt.NDArray[np.float32]]:
        """The rows in the cache's order and their logits [B, V]; their lengths are as before."""
        self._require_open()
        if not tokens or tokens.keys() != set(self.rows):
            raise InputError(
                f"{len(tokens)} tokens were given and {len(self.rows)} sequences are in the batch: give each its own"
            )
        for row, token in tokens.items():
            if not 0 <= token < len(self._backend.token_embedding):
                raise unknown_token(token, self._backend)
            self.reserve(row)
        self._close_gaps()
        assert self._state is not None
        return self.rows, self._state.run(self._inputs(self.rows, tokens))[:, 0]

    def _decode_alone(
        self, row: BatchRow, tokens: Mapping[BatchRow, int]
    ) -> npt.NDArray[np.float32] | NeoEdgeError:
        assert self._state is not None
        place, capacity = self._place(row), self.capacity
        need = MemoryNeed(kv_cache=self._bytes(capacity) // self._max_rows)
        try:
            with self._budget.reserve(need, f"one sequence of {row.length} tokens alone", cure=_CURE):
                alone = self._backend.new_state(batch=1, capacity=capacity)
                try:
                    alone.copy_row(0, self._state, place, length=row.length)
                    logits: npt.NDArray[np.float32] = alone.run(self._inputs((row,), tokens))[0, 0].copy()
                    if not np.isfinite(logits).all():
                        raise _not_finite([row.length], "sequence has left the batch")
                    self._state.copy_row(place, alone, 0, length=row.length + 1)
                finally:
                    alone.close()
        except (BackendError, MemoryBudgetError, SessionClosedError) as error:
            self.leave(row)
            return error
        _advance([row])
        return logits

    def _leave_spoilt(self, row: BatchRow, healthy: Sequence[BatchRow]) -> None:
        """Whoever takes the place next must not find what is not finite behind its own tokens: 0 x NaN is NaN."""
        place = self._place(row)
        if healthy:
            assert self._state is not None
            self._state.copy_row(place, self._state, self._place(healthy[0]), length=self.capacity)
        self.leave(row)

    def _inputs(self, rows: tuple[BatchRow, ...], tokens: Mapping[BatchRow, int]) -> DecoderInputs:
        step = self._step
        if step is None or len(step.write_index) != len(rows):
            step = self._step = decode_inputs(self._backend, len(rows))
        step.inputs_embeds[:, 0] = self._backend.token_embedding[[tokens[row] for row in rows]]
        step.position_ids[:, 0, 0] = [row.next_t for row in rows]
        step.write_index[:] = [row.length for row in rows]
        step.visible_length[:, 0] = step.write_index + 1
        return step

    def _close_gaps(self) -> None:
        """Moves the last sequences into the places of those that left: one copy for each, and no other step's."""
        while None in self._places:
            last = self._places.pop()
            if last is not None:
                assert self._state is not None
                gap = self._places.index(None)
                self._state.copy_row(gap, self._state, len(self._places), length=last.length)
                self._places[gap] = last

    def _room_for(self, length: int) -> DecoderState:
        capacity = self._capacity_for(length)
        if self._state is None or capacity > self._state.capacity:
            purpose = f"a batch of {self._max_rows} sequences of up to {capacity} tokens"
            with self._budget.reserve(self.need(length - 1), purpose, cure=_CURE) as reservation:
                if self._state is None:
                    self._state = self._backend.new_state(batch=self._max_rows, capacity=capacity)
                else:
                    self._close_gaps()
                    longest = max(row.length for row in self.rows)
                    grow(
                        self._state,
                        capacity,
                        length=longest,
                        rows=self._max_rows,
                        limit=self._max_tokens,
                        traits=self._backend.traits,
                        budget=self._budget,
                        reservation=reservation,
                    )
                self._hold(self._bytes(self._state.capacity), reservation)  # engines may give more or less
        return self._state

    def _capacity_for(self, length: int) -> int:
        # The last token of a full context is chosen and never appended.
        limit = None if self._max_tokens is None else max(self._max_tokens, self.capacity)
        return capacity_for(length if limit is None else min(length, limit), self.capacity, limit)

    def _bytes(self, capacity: int) -> int:
        traits = self._backend.traits
        return cache_bytes(
            traits.config.decoder,
            batch=self._max_rows,
            capacity=capacity,
            element_bytes=traits.cache_element_bytes,
        )

    def _hold(self, size_bytes: int, reservation: Reservation | None = None) -> None:
        self._budget.hold(size_bytes - self._held_bytes, reservation)
        self._held_bytes = size_bytes

    def _drop_if_empty(self) -> None:
        """An empty batch holds no memory, and the next sequence finds no other one's capacity."""
        if self.rows:
            return
        self._places.clear()
        state, self._state = self._state, None
        if state is not None:
            self._hold(0)
            state.close()

    def _place(self, row: BatchRow) -> int:
        if row not in self._places:
            raise InputError("the sequence is not in the batch: it has left, or is another batch's")
        return self._places.index(row)

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError("the batch is closed: open another one")


def _advance(rows: Iterable[BatchRow]) -> None:
    for row in rows:
        row.length, row.next_t = row.length + 1, row.next_t + 1


def _not_finite(lengths: list[int], consequence: str) -> SessionClosedError:
    after = lengths if len(lengths) > 1 else lengths[0]
    return SessionClosedError(
        f"the model gave a logit that is not finite after {after} tokens, and its cache is spoilt: the {consequence}; "
        "run `neo-edge parity` on the bundle, or use a float32 variant"
    )
