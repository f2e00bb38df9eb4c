"""Sequences that join, decode together and leave, over the numpy oracle and over real bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import append_text, worst

from neo_edge.bundle import open_bundle
from neo_edge.errors import (
    ContextOverflowError,
    InputError,
    MemoryBudgetError,
    SessionClosedError,
)
from neo_edge_runtime import BatchSession, Session
from neo_edge_runtime.backend import Backend
from neo_edge_runtime.batch_session import BatchRow
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.ort_decoder import OrtDecoderState

TEXTS = ([1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 12])
ROW_BYTES = 3 * 2 * 48 * 4 * 128  # 3 layers x 2 kv heads x (32 + 16) numbers x 4 bytes x 128 positions


def session_of(backend: Backend, ids: list[int], budget: MemoryBudget | None = None) -> Session:
    session = Session(backend, budget=budget)
    append_text(session, ids)
    return session


def joined(batch: BatchSession, backend: Backend, *texts: list[int]) -> list[BatchRow]:
    rows = []
    for ids in texts:
        with session_of(backend, ids) as session:
            rows.append(batch.join(session))
    return rows


def alone(backend: Backend, ids: list[int], *tokens: int) -> np.ndarray:
    with session_of(backend, ids) as session:
        return [session.decode(token) for token in tokens][-1]


def test_rows_decode_in_one_run_and_come_in_the_order_they_were_asked_for(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=3)
    rows = joined(batch, backend, *TEXTS)
    assert [row.length for row in rows] == [6, 2, 4]
    backend.runs.clear()
    backend.batches.clear()
    logits = batch.decode({rows[2]: 20, rows[0]: 21, rows[1]: 22})
    assert (backend.runs, backend.batches) == ([1], [3])
    assert [row.length for row in rows] == [7, 3, 5]
    for found, (ids, token) in zip(logits, [(TEXTS[2], 20), (TEXTS[0], 21), (TEXTS[1], 22)], strict=True):
        assert worst(found, alone(backend, ids, token)) <= 1e-5


def test_a_row_that_leaves_costs_nothing_and_the_others_are_as_they_were(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=3)
    first, second, third = joined(batch, backend, *TEXTS)
    batch.decode({first: 20, second: 21, third: 22})
    batch.leave(first)
    logits = batch.decode({second: 23, third: 24})
    assert backend.batches[-1] == 2
    assert worst(logits[0], alone(backend, TEXTS[1], 21, 23)) <= 1e-5
    assert worst(logits[1], alone(backend, TEXTS[2], 22, 24)) <= 1e-5
    (fourth,) = joined(batch, backend, TEXTS[0])
    batch.leave(second)
    logits = batch.decode({third: 25, fourth: 26})
    assert worst(logits[0], alone(backend, TEXTS[2], 22, 24, 25)) <= 1e-5
    assert worst(logits[1], alone(backend, TEXTS[0], 26)) <= 1e-5


def test_a_place_that_gets_free_is_taken_without_moving_the_others(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=2)
    first, second = joined(batch, backend, *TEXTS[:2])
    batch.leave(first)
    (third,) = joined(batch, backend, TEXTS[2])
    assert batch.rows == (third, second)
    batch.leave(third)
    batch.decode({second: 20})
    assert batch.rows == (second,)


def test_the_cache_grows_for_all_when_the_longest_fills_it(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=3)
    long = [5] * 127
    rows = joined(batch, backend, TEXTS[0], long, TEXTS[1])
    assert batch.capacity == 128, "the first one's room is enough for the long one"
    batch.decode(dict.fromkeys(rows, 20))
    batch.leave(rows[0])
    batch.expect(2)
    logits = batch.decode({rows[1]: 21, rows[2]: 22})
    assert batch.capacity == 256
    state = next(state for state in backend.states if state.grown_to)
    assert state.keys.shape[1] == 2, "the cache of the row that left was not made larger"
    assert worst(logits[0], alone(backend, long, 20, 21)) <= 1e-5
    assert worst(logits[1], alone(backend, TEXTS[1], 20, 22)) <= 1e-5


def test_a_prompt_that_fills_the_cache_joins_with_room_for_the_next_token(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=2)
    rows = joined(batch, backend, TEXTS[0])
    assert batch.capacity == 128
    rows += joined(batch, backend, [5] * 128)
    assert batch.capacity == 256
    batch.decode(dict.fromkeys(rows, 1))
    assert [state.grown_to for state in backend.states if state.grown_to] == [[256]]


def test_sessions_with_one_past_can_be_joined_too(backend: NumpyBackend) -> None:
    shared = session_of(backend, TEXTS[0])
    with BatchSession(backend, rows=2) as batch:
        rows = [batch.join(shared) for _ in range(2)]
        logits = batch.decode({rows[0]: 20, rows[1]: 21})
    assert worst(logits[0], alone(backend, TEXTS[0], 20)) <= 1e-5
    assert worst(shared.decode(21), logits[1]) <= 1e-5


def test_the_budget_holds_the_whole_cache_until_the_last_row_leaves(backend: NumpyBackend) -> None:
    budget = MemoryBudget()
    batch = BatchSession(backend, rows=3, budget=budget)
    first, second = joined(batch, backend, *TEXTS[:2])
    assert budget.held_bytes == 3 * ROW_BYTES
    batch.leave(first)
    assert budget.held_bytes == 3 * ROW_BYTES
    batch.leave(second)
    assert budget.held_bytes == batch.capacity == 0
    joined(batch, backend, TEXTS[0])
    assert budget.held_bytes == 3 * ROW_BYTES
    batch.close()
    batch.close()
    assert budget.held_bytes == 0
    dropped = BatchSession(backend, rows=2, budget=budget)
    joined(dropped, backend, TEXTS[0])
    del dropped
    assert budget.held_bytes == 0
    assert all(state.closed for state in backend.states)


def test_a_batch_that_does_not_fit_is_refused_with_the_numbers_and_nothing_allocated(
    backend: NumpyBackend,
) -> None:
    batch = BatchSession(backend, rows=8, budget=MemoryBudget(1_000_000))
    with (
        session_of(backend, TEXTS[0]) as session,
        pytest.raises(
            MemoryBudgetError,
            match=r"a batch of 8 sequences of up to 128 tokens needs .*kv cache 1\.1 MiB.* allows 1\.0 MiB: pass a "
            "smaller batch_size",
        ),
    ):
        batch.join(session)
    assert batch.capacity == 0
    assert len(backend.states) == 1


def test_growth_beyond_the_memory_is_refused_and_the_shorter_ones_go_on(backend: NumpyBackend) -> None:
    budget = MemoryBudget(2 * ROW_BYTES + 100_000)
    batch = BatchSession(backend, rows=2, budget=budget)
    short, full = joined(batch, backend, TEXTS[1], [5] * 126)
    batch.decode({full: 1, short: 2})
    batch.decode({full: 1, short: 2})
    with pytest.raises(MemoryBudgetError, match="up to 256 tokens"):
        batch.reserve(full)
    with pytest.raises(MemoryBudgetError):
        batch.decode({full: 1, short: 2})
    assert (full.length, short.length, batch.capacity) == (128, 4, 128)
    batch.reserve(short)
    batch.leave(full)
    assert worst(batch.decode({short: 3})[0], alone(backend, TEXTS[1], 2, 2, 3)) <= 1e-5


def test_a_row_ends_at_the_contexts_end_and_at_the_models_last_position(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=2, max_context_tokens=7)
    full, short = joined(batch, backend, TEXTS[0], TEXTS[1])
    assert batch.capacity == 7
    batch.decode({full: 1, short: 2})
    with pytest.raises(ContextOverflowError, match="7 tokens are in the cache and 1 would follow.*holds 7"):
        batch.reserve(full)
    batch.reserve(short)
    unlimited = BatchSession(backend, rows=1)
    (row,) = joined(unlimited, backend, TEXTS[1])
    row.next_t = 40960
    with pytest.raises(ContextOverflowError, match="position 40961; the model was made for 40960"):
        unlimited.decode({row: 1})


def test_bad_input_changes_nothing(backend: NumpyBackend) -> None:
    with pytest.raises(InputError, match="0 rows holds nothing"):
        BatchSession(backend, rows=0)
    batch = BatchSession(backend, rows=2)
    with pytest.raises(InputError, match="prefill a prompt"):
        batch.join(Session(backend))
    assert batch.capacity == 0
    with pytest.raises(InputError, match="0 tokens were given and 0 sequences"):
        batch.decode({})
    first, second = joined(batch, backend, *TEXTS[:2])
    with session_of(backend, TEXTS[2]) as third, pytest.raises(InputError, match="2 sequences and no more"):
        batch.join(third)
    with pytest.raises(InputError, match="1 tokens were given and 2 sequences"):
        batch.decode({first: 1})
    with pytest.raises(InputError, match="token id 320"):
        batch.decode({first: 1, second: 320})
    batch.leave(first)
    with pytest.raises(InputError, match="not in the batch"):
        batch.leave(first)
    with pytest.raises(InputError, match="not in the batch"):
        batch.reserve(first)
    assert (first.length, second.length) == (6, 2)


def test_a_closed_session_does_not_join_and_a_closed_batch_does_nothing(backend: NumpyBackend) -> None:
    batch = BatchSession(backend, rows=1)
    session = session_of(backend, TEXTS[0])
    session.close()
    with pytest.raises(SessionClosedError):
        batch.join(session)
    batch.close()
    with pytest.raises(SessionClosedError, match="the batch is closed"):
        batch.join(session_of(backend, TEXTS[0]))
    with pytest.raises(SessionClosedError, match="the batch is closed"):
        batch.decode({})


def test_a_logit_that_is_not_finite_closes_the_batch(backend: NumpyBackend) -> None:
    budget = MemoryBudget()
    batch = BatchSession(backend, rows=2, budget=budget)
    rows = joined(batch, backend, *TEXTS[:2])
    backend.poison = True
    with pytest.raises(SessionClosedError, match=r"not finite after \[6, 2\] tokens"):
        batch.decode(dict.fromkeys(rows, 1))
    backend.poison = False
    with pytest.raises(SessionClosedError, match="is closed"):
        batch.decode(dict.fromkeys(rows, 1))
    assert budget.held_bytes == 0


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable", "fp16", "fp16-portable"])
def test_steps_bind_nothing_and_write_into_the_same_caches(tiny_bundle: Path, variant: str) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), variant, threads=1)
    batch = BatchSession(backend, rows=3)
    first, second, third = joined(batch, backend, *TEXTS)
    batch.decode({first: 1, second: 2, third: 3})
    state = batch._state
    assert isinstance(state, OrtDecoderState)
    binding, arrays = state._step, [*state.cache.keys, *state.cache.values]
    kept = batch.decode({first: 1, second: 2, third: 3})
    copy = kept.copy()
    batch.decode({first: 1, second: 2, third: 3})
    assert state._step is binding
    assert np.array_equal(kept, copy), "logits that a caller holds do not change"
    batch.leave(second)
    batch.decode({first: 1, third: 3})
    assert all(
        now is then for now, then in zip([*state.cache.keys, *state.cache.values], arrays, strict=True)
    )
    key = state.cache.keys[0]
    for place, row in enumerate((first, third)):
        assert np.abs(key[place, :, row.length - 1]).max() > 0
        assert not key[place, :, row.length :].any(), "only the next position is written"
    batch.close()
    backend.close()
