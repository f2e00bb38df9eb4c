"""Threads that share a model share its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from numpy_backend import NumpyBackend, NumpyState
from tiny_golden import GOLDEN, TOKENS

from neo_edge import Request
from neo_edge.errors import MemoryBudgetError
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Model
from neo_edge_runtime.memory import MemoryBudget

FEW = SamplingOptions(max_new_tokens=3)
LIMIT_BYTES = 600_000  # one sequence's cache of 128 tokens and its scratch, and not two


class PausingBackend(NumpyBackend):
    """Waits at the first cache, behind its admission, until `go` is set."""

    def __init__(self) -> None:
        super().__init__(GOLDEN)
        self.inside, self.go = threading.Event(), threading.Event()

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        self.inside.set()
        assert self.go.wait(300)
        return super().new_state(batch=batch, capacity=capacity)


def ask(model: Model) -> int:
    return len(model.generate("where?", options=FEW).token_ids)


def ask_a_batch(model: Model) -> int:
    return len(model.generate_batch([Request("where?")], options=FEW)[0].token_ids)


@pytest.mark.parametrize("second", [ask, ask_a_batch])
def test_of_two_threads_only_one_is_admitted_to_memory_for_one(
    tokenizer: Tokenizer, second: Callable[[Model], int]
) -> None:
    backend = PausingBackend()
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=LIMIT_BYTES)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, model)
        try:
            assert backend.inside.wait(300)  # it is admitted, and has allocated nothing
            with pytest.raises(MemoryBudgetError, match="beside 0.0 MiB .* MiB that other runs may take"):
                second(model)
        finally:
            backend.go.set()
        assert first.result(300) == 3
    assert ask(model) == 3
    assert (model._budget.held_bytes, model._budget.reserved_bytes) == (0, 0)
    assert all(state.closed for state in backend.states)


class WatchedBackend(NumpyBackend):
    """Notes what the budget has promised whenever a cache is made."""

    budget: MemoryBudget
    promised: list[int]

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        self.promised.append(self.budget.held_bytes + self.budget.reserved_bytes)
        return super().new_state(batch=batch, capacity=capacity)


def test_threads_that_start_at_once_are_never_promised_more_than_the_limit(tokenizer: Tokenizer) -> None:
    backend = WatchedBackend(GOLDEN)
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=2 * LIMIT_BYTES)
    backend.budget, backend.promised = model._budget, []
    at_once = threading.Barrier(6)

    def ask_at_once(_: int) -> int | MemoryBudgetError:
        at_once.wait(300)
        try:
            return ask(model)
        except MemoryBudgetError as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask_at_once, range(6)))
    assert 1 <= found.count(3) == len(backend.promised)
    assert found.count(3) + sum(isinstance(one, MemoryBudgetError) for one in found) == 6
    assert max(backend.promised) <= 2 * LIMIT_BYTES
    assert (model._budget.held_bytes, model._budget.reserved_bytes) == (0, 0)
