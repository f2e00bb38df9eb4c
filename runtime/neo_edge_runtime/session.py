"""One sequence: a cache that is filled, read, rewound and forked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from neo_edge.errors import InputError, NeoEdgeError, SessionClosedError
from neo_edge.shown import shown
from neo_edge_runtime.backend import ChoosingState
from neo_edge_runtime.context_room import require_chunks, require_room
from neo_edge_runtime.decoder_inputs import (
    EmbeddedTokens,
    checked_ids,
    chunk_inputs,
    decode_inputs,
    unknown_token,
)
from neo_edge_runtime.kv_cache import capacity_for
from neo_edge_runtime.memory import MemoryBudget, MemoryNeed
from neo_edge_runtime.prefill_plan import DEFAULT_CHUNK_TOKENS, Chunk, PrefillCancelledError, plan_prefill
from neo_edge_runtime.session_cache import SessionCache

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from neo_edge.positions import SequenceLayout
    from neo_edge_runtime.backend import Backend, Candidates, DecoderState


@dataclass(frozen=True)
class Checkpoint:
    """A point that a session can be rewound to: two numbers, since an image of n tokens moves t by one."""

    length: int  # tokens in the cache
    next_t: int  # t of a text token that would follow


class Session:
    """A sequence and its cache. Not for two threads at once; sessions of one backend are independent.

    `sent_tokens` counts every token that went through the decoder, which is what a kept cache saves.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        budget: MemoryBudget | None = None,
        max_context_tokens: int | None = None,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    ) -> None:
        """An empty session; caches are allocated by the first prefill.

        Args:
            backend: loaded variant of a bundle.
            budget: shared by the sessions of a model; None: only what the machine has free.
            max_context_tokens: most tokens the cache may hold; None: as many as the model's positions
                (`max_positions`, counted in t) and the memory allow.
            chunk_tokens: most tokens of one prefill run, images left whole.
        """
        if max_context_tokens is not None and max_context_tokens < 1:
            raise InputError(
                f"max_context_tokens is {shown(max_context_tokens)}; it must be above zero, or None"
            )
        self._backend, self._budget = backend, budget or MemoryBudget.of(backend)
        self._max_tokens, self._chunk_tokens = backend.traits.within(max_context_tokens, chunk_tokens)
        self._cache = SessionCache(backend, self._budget, self._max_tokens)
        self._closed = False
        self._length, self._next_t = 0, 0
        self._legal = {0: 0}  # length -> next_t of every point to rewind to
        self._step = decode_inputs(backend)
        self._chooses: bool | None = None  # whether the states find likeliest tokens; None: not known yet
        self.sent_tokens = 0

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._length

    @property
    def next_t(self) -> int:
        """t of a text token that would follow."""
        return self._next_t

    @property
    def max_tokens(self) -> int | None:
        """Most tokens that the cache may hold; None: positions and memory decide."""
        return self._max_tokens

    @property
    def capacity(self) -> int:
        """Tokens that fit before the cache grows."""
        return self._cache.capacity

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the session stands now."""
        return Checkpoint(self._length, self._next_t)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every point that the session can be rewound to, from the empty one on."""
        return tuple(Checkpoint(length, t) for length, t in self._legal.items())

    def preflight(self, layout: SequenceLayout, *, beside: MemoryNeed | None = None) -> None:
        """Raises what `prefill` would raise before it runs anything.

        Args:
            layout: of the tokens to come.
            beside: memory that the caller takes for the same piece, such as the vision graph's.
        """
        with self.reserve(layout, beside=beside):
            pass

    @contextmanager
    def reserve(self, layout: SequenceLayout, *, beside: MemoryNeed | None = None) -> Iterator[None]:
        """Keeps the memory of a `prefill` in the block, and of what is beside it, from other threads.

        Without it `prefill` reserves its own. Arguments and errors as `preflight`.
        """
        chunks = self._admit(layout)
        new_tokens = len(layout.visible_length)
        need = self._cache.need(chunks, new_tokens, all_logits=False)
        with self._cache.reserved(need + (beside or MemoryNeed()), self._appending(new_tokens)):
            yield

    def prefill(
        self,
        input_ids: npt.NDArray[np.integer],
        layout: SequenceLayout,
        visual_tokens: npt.NDArray[np.generic] | None = None,
        *,
        all_logits: bool = False,
        cancelled: threading.Event | None = None,
    ) -> npt.NDArray[np.float32]:
        """Appends S tokens.

        Args:
            input_ids: [S] token ids; those of image context tokens are not looked at.
            layout: made by `neo_edge.positions.layout` with this session's `length` and `next_t`.
            visual_tokens: [tokens marked `is_visual`, hidden], in order.
            all_logits: logits of all S tokens, not only of the last.
            cancelled: looked at between chunks.

        Returns:
            [S, V] or [1, V] float32 logits.

        Raises:
            ContextOverflowError, MemoryBudgetError, InputError: nothing has changed.
            SessionClosedError: the session is closed, or a logit is not finite (then it is closed now).
            BackendError: the run failed; the session stands where it stood.
            PrefillCancelledError: `cancelled` was set; the session stands where it stood.
        """
        chunks = self._admit(layout)
        ids = checked_ids(input_ids, layout, self._backend)
        need = self._cache.need(chunks, len(ids), all_logits=all_logits)
        with self._cache.reserved(need, self._appending(len(ids))):
            embeds = EmbeddedTokens(self._backend, ids, layout.is_visual, visual_tokens)
            start_length, vocab_size = self._length, len(self._backend.token_embedding)
            kept = np.empty((len(ids) if all_logits else 1, vocab_size), np.float32)
            for chunk in chunks:
                if cancelled is not None and cancelled.is_set():
                    raise PrefillCancelledError
                inputs = chunk_inputs(layout, chunk, embeds, start_length, all_logits=all_logits)
                state = self._cache.with_capacity(chunk.capacity, used=start_length + chunk.start)
                logits = state.run(inputs)[0]
                self.sent_tokens += chunk.end - chunk.start
                self._require_finite(bool(np.isfinite(logits).all()))
                kept[slice(chunk.start, chunk.end) if all_logits else slice(None)] = logits
        self._length, self._next_t = start_length + len(ids), layout.next_t
        self._legal.update(
            (start_length + length, layout.t_after(length)) for length in layout.boundaries.tolist()
        )
        return kept

    def decode(self, token: int) -> npt.NDArray[np.float32]:
        """Appends one text token; logits [V] float32 of what follows it, the caller's own.

        Raises:
            ContextOverflowError, MemoryBudgetError, InputError: nothing has changed.
            SessionClosedError, BackendError: as `prefill`.
        """
        state = self._ready_for(token)
        logits: npt.NDArray[np.float32] = state.run(self._step)[0, 0].copy()
        self._count_token(finite=bool(np.isfinite(logits).all()))
        return logits

    def decode_likeliest(self, token: int) -> int:
        """As `decode`; the arg-max of the logits, which stay on the device where it can find that."""
        if not self._state_chooses():
            return int(self.decode(token).argmax())
        state = cast("ChoosingState", self._ready_for(token))
        found = state.run_likeliest(self._step)
        self._count_token(finite=found.finite)
        return int(found.tokens[0, 0])

    def decode_narrowed(
        self, token: int, temperature: float, choose: Callable[[Candidates], int | None]
    ) -> int | npt.NDArray[np.float32]:
        """As `decode`; only the largest logits leave the device, where it can find them.

        Args:
            token: to append.
            temperature: of the sums that `choose` looks at.
            choose: gives the next token, or None when it must see all logits.

        Returns:
            What `choose` gave, or [V] float32 logits.
        """
        if not self._state_chooses():
            return self.decode(token)
        state = cast("ChoosingState", self._ready_for(token))
        found = state.run_candidates(self._step, temperature)
        self._count_token(finite=found.finite)
        chosen = choose(found)
        return state.whole_logits()[0, 0].copy() if chosen is None else chosen

    def checkpoint_at(self, length: int) -> Checkpoint:
        """The checkpoint after `length` tokens; raises `InputError` inside an image or beyond the end."""
        if length not in self._legal:
            below = max((known for known in self._legal if known < length), default=0)
            raise InputError(
                f"the session cannot be rewound to {length} tokens (it holds {self._length}, and an image stays "
                f"whole): the nearest point before it is {below}"
            )
        return Checkpoint(length, self._legal[length])

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Forgets everything behind the checkpoint; what is before it is exactly as it was.

        Raises:
            InputError: the session has no such point; nothing has changed.
            SessionClosedError: the session is closed.
        """
        self._require_open()
        if self.checkpoint_at(checkpoint.length) != checkpoint:
            raise InputError(
                f"{checkpoint} is not of this session: t is {self._legal[checkpoint.length]} there"
            )
        self._length, self._next_t = checkpoint.length, checkpoint.next_t
        self._legal = {length: t for length, t in self._legal.items() if length <= checkpoint.length}

    def fork(self) -> Session:
        """A second session with the same past; the two go on independently.

        Costs a copy of the cache's filled part, once (2B in float32: 0.47 MiB a token), and its memory.

        Raises:
            MemoryBudgetError: there is no room for the copy.
            SessionClosedError: the session is closed.
        """
        self._require_open()
        other = Session(
            self._backend,
            budget=self._budget,
            max_context_tokens=self._max_tokens,
            chunk_tokens=self._chunk_tokens,
        )
        other._cache = self._cache.copy(self._length)
        other._length, other._next_t, other._legal = self._length, self._next_t, dict(self._legal)
        return other

    def lend_state(self) -> DecoderState:
        """The filled cache itself, for who changes it and then says so with `stand_at`; raises as `copy_to`."""
        if self._closed or self._cache.state is None:
            raise self._not_ready()
        return self._cache.state

    def stand_at(self, checkpoint: Checkpoint) -> None:
        """Takes the cache as it is now, changed by who `lend_state` was for; there is no earlier point to rewind to."""
        self._length, self._next_t = checkpoint.length, checkpoint.next_t
        self._legal = {0: 0, checkpoint.length: checkpoint.next_t}

    def copy_to(self, state: DecoderState, row: int) -> None:
        """Copies the filled part of the cache into a row of another state, which must have room for it.

        Raises:
            InputError: the session is empty.
            SessionClosedError: the session is closed.
        """
        state.copy_row(row, self.lend_state(), 0, length=self._length)

    def close(self) -> None:
        """Gives the cache's memory back; may be called twice."""
        self._closed = True
        self._cache.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state_chooses(self) -> bool:
        if self._chooses is None and self._cache.state is not None:
            self._chooses = isinstance(self._cache.state, ChoosingState)
        return bool(self._chooses)

    def _ready_for(self, token: int) -> DecoderState:
        """The state, with room for one more token and that token in `_step`."""
        state, length, step = self.lend_state(), self._length, self._step
        self._require_room(1, self._next_t + 1)
        if not 0 <= token < len(self._backend.token_embedding):
            raise unknown_token(token, self._backend)
        if length == state.capacity:
            capacity = capacity_for(length + 1, length, self._max_tokens)
            need = self._cache.need([Chunk(0, 1, capacity)], 1, all_logits=False)
            with self._cache.reserved(need, self._appending(1)):
                state = self._cache.with_capacity(capacity, used=length)
        step.inputs_embeds[0, 0] = self._backend.token_embedding[token]
        step.position_ids[0, 0, 0] = self._next_t
        step.visible_length[0, 0] = length + 1
        step.write_index[0] = length
        return state

    def _count_token(self, *, finite: bool) -> None:
        self.sent_tokens += 1
        self._require_finite(finite)
        self._length, self._next_t = self._length + 1, self._next_t + 1
        self._legal[self._length] = self._next_t

    def _admit(self, layout: SequenceLayout) -> list[Chunk]:
        self._require_open()
        size = len(layout.visible_length)
        chunks = plan_prefill(
            layout,
            chunk_tokens=self._chunk_tokens,
            start_length=self._length,
            capacity=self.capacity,
            max_tokens=self._max_tokens,
        )
        first_t, last_seen = int(layout.position_ids[0, 0]), int(layout.visible_length.max())
        if first_t != self._next_t or last_seen != self._length + size:
            raise InputError(
                f"the layout starts at t {first_t} behind {last_seen - size} tokens; the session is at t "
                f"{self._next_t} behind {self._length}: lay the piece out with start_length and start_t"
            )
        self._require_room(size, layout.next_t)
        require_chunks(chunks, self._backend.traits)
        return chunks

    def _require_room(self, new_tokens: int, next_t: int) -> None:
        require_room(
            self._length,
            new_tokens,
            next_t,
            max_tokens=self._max_tokens,
            traits=self._backend.traits,
        )

    def _appending(self, new_tokens: int) -> str:
        return f"appending {new_tokens} tokens to {self._length}"

    def _require_finite(self, finite: bool) -> None:
        if not finite:
            self.close()
            raise SessionClosedError(
                f"the model gave a logit that is not finite after {self._length} tokens, and its cache is spoilt: the "
                "session is closed; run `neo-edge parity` on the bundle, or use a float32 variant"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise self._not_ready()

    def _not_ready(self) -> NeoEdgeError:
        if self._closed:
            return SessionClosedError("the session is closed: open another one")
        return InputError("the session is empty: prefill a prompt before decoding")
