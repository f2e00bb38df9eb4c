"""Caches of a backend that prepares each capacity double, within what the budget and the device have left."""

from __future__ import annotations

import pytest
from tensorrt_bundle import Fakes
from tiny_golden import append_text

from neo_edge.bundle import Bundle
from neo_edge_runtime import Session
from neo_edge_runtime.backend import Backend
from neo_edge_runtime.batch_session import BatchSession
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.ort_backend import OrtBackend

TOKEN_BYTES = 3 * 2 * 48 * 4  # 3 layers x 2 kv heads x (32 + 16) numbers x 4 bytes
FULL = 192  # positions that 100 tokens get
ASKED, AMPLE = 320, 2 * FULL  # for one token more: an eighth above it, and twice the room


def full_session(backend: Backend, budget: MemoryBudget | None = None) -> Session:
    session = Session(backend, budget=budget)
    append_text(session, [5] * 100)
    append_text(session, [5] * (FULL - 100))
    assert session.capacity == session.length == FULL
    return session


@pytest.mark.parametrize(
    ("limit_tokens", "free_tokens", "capacity"),
    [
        (None, None, AMPLE),
        (400, None, AMPLE),
        (350, None, ASKED),  # the limit counts what is taken, and not only what is asked
        (None, 170, ASKED),  # what the step itself was promised stays free
        (None, 205, ASKED),  # the last layer, which exists twice for a moment, finds no room
    ],
)
def test_a_session_grows_to_twice_its_room_where_limit_and_device_have_so_much_left(
    engine_bundle: Bundle, limit_tokens: int | None, free_tokens: int | None, capacity: int
) -> None:
    fakes = Fakes(engine_bundle)
    backend = fakes.open("fp32-portable")
    limit = None if limit_tokens is None else limit_tokens * TOKEN_BYTES
    budget = MemoryBudget(limit, free_device_bytes=backend.free_device_bytes)
    session = full_session(backend, budget)
    if free_tokens is not None:
        fakes.device.free_memory = free_tokens * TOKEN_BYTES
    session.decode(1)
    assert session.capacity == capacity
    assert budget.held_bytes == capacity * TOKEN_BYTES
    assert budget.reserved_bytes == 0
    session.close()
    assert budget.held_bytes == 0
    backend.close()


def test_a_session_grows_no_further_than_its_largest_context(engine_bundle: Bundle) -> None:
    backend = Fakes(engine_bundle).open("fp32-portable")
    session = Session(backend, max_context_tokens=330)
    append_text(session, [5] * 100)
    append_text(session, [5] * 100)
    assert session.capacity == 330
    backend.close()


@pytest.mark.parametrize(("limit_tokens", "capacity"), [(None, AMPLE), (950, ASKED)])
def test_a_batch_grows_to_twice_its_room_where_the_limit_allows_it(
    engine_bundle: Bundle, limit_tokens: int | None, capacity: int
) -> None:
    backend = Fakes(engine_bundle).open("fp32-portable")
    budget = MemoryBudget(None if limit_tokens is None else limit_tokens * TOKEN_BYTES)
    batch = BatchSession(backend, rows=2, budget=budget)
    with Session(backend, budget=budget) as short:
        append_text(short, [5] * 100)
        batch.join(short)
    assert batch.capacity == FULL
    with full_session(backend, budget) as long:
        batch.join(long)
    assert batch.capacity == capacity
    assert budget.held_bytes == 2 * capacity * TOKEN_BYTES
    assert batch.need(FULL).kv_cache == 0, "there is room for another one of this length"
    batch.close()
    assert (budget.held_bytes, budget.reserved_bytes) == (0, 0)
    backend.close()


def test_a_backend_that_takes_any_capacity_grows_to_what_is_asked(engine_bundle: Bundle) -> None:
    backend = OrtBackend(engine_bundle, "fp32-portable", threads=1)
    with full_session(backend) as session:
        session.decode(1)
        assert session.capacity == ASKED
    backend.close()
