"""Sessions over the numpy oracle, against the golden numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import (
    TOKENS,
    Golden,
    append_text,
    decode_worst,
    grids_of,
    prefill,
    read_golden,
    text_layout,
    visual_tokens_of,
    worst,
)

from neo_edge.errors import ContextOverflowError, InputError, MemoryBudgetError, SessionClosedError
from neo_edge.patch_grid import PatchGrid
from neo_edge.positions import layout
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.session import Checkpoint, Session

ATOL = 1e-4  # the project's law for float32


def test_the_oracle_makes_the_golden_visual_tokens(backend: NumpyBackend, golden: Golden) -> None:
    assert worst(visual_tokens_of(backend, golden), golden["vit_embeds"]) <= ATOL


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1024])
def test_every_logit_of_prefill_and_decode_equals_upstream_in_any_chunks(
    backend: NumpyBackend, golden: Golden, chunk_tokens: int
) -> None:
    session = Session(backend, chunk_tokens=chunk_tokens)
    assert worst(prefill(session, backend, golden), golden["prefill_logits"]) <= ATOL
    assert decode_worst(session, golden) <= ATOL
    longest = max([grid.visual_tokens + 1 for grid in grids_of(golden)], default=1)
    assert max(backend.runs) <= max(chunk_tokens, longest)


def test_a_rewound_session_repeats_upstream_exactly(backend: NumpyBackend, golden: Golden) -> None:
    session = Session(backend)
    prefill(session, backend, golden)
    after_prompt = session.checkpoint
    first = np.stack([session.decode(token) for token in (1, 2, 3)])
    session.rewind(after_prompt)
    assert decode_worst(session, golden) <= ATOL
    session.rewind(after_prompt)
    assert np.array_equal(first, np.stack([session.decode(token) for token in (1, 2, 3)]))


def test_a_prompt_can_be_continued_from_every_point_it_can_be_rewound_to(backend: NumpyBackend) -> None:
    golden = read_golden("multi_image")
    ids, grids, visual = golden["input_ids"], grids_of(golden), visual_tokens_of(backend, golden)
    session = Session(backend)
    prefill(session, backend, golden)
    for checkpoint in reversed(session.checkpoints):
        if checkpoint.length == len(ids):
            continue
        session.rewind(checkpoint)
        before = ids[: checkpoint.length]
        seen = int((before == TOKENS.img_end).sum() + (before[-1:] == TOKENS.img_context).sum())
        used = int((before == TOKENS.img_context).sum())
        rest = layout(
            ids[checkpoint.length :],
            grids[seen:],
            TOKENS,
            start_length=checkpoint.length,
            start_t=checkpoint.next_t,
        )
        assert np.array_equal(rest.position_ids, golden["indexes"][:, checkpoint.length :])
        logits = session.prefill(ids[checkpoint.length :], rest, visual[used:], all_logits=True)
        assert worst(logits, golden["prefill_logits"][checkpoint.length :]) <= ATOL


def test_a_session_cannot_be_rewound_into_an_image(backend: NumpyBackend) -> None:
    golden = read_golden("multi_image")
    session = Session(backend)
    prefill(session, backend, golden)
    with pytest.raises(InputError, match="nearest point before it is 3"):
        session.checkpoint_at(7)
    with pytest.raises(InputError, match="not of this session"):
        session.rewind(Checkpoint(length=3, next_t=99))
    assert session.length == 31


def test_points_behind_a_rewind_are_gone(backend: NumpyBackend) -> None:
    golden = read_golden("multi_image")
    session = Session(backend)
    prefill(session, backend, golden)
    later = session.checkpoint
    session.rewind(session.checkpoint_at(3))
    assert [point.length for point in session.checkpoints] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"cannot be rewound to 31 tokens \(it holds 3"):
        session.rewind(later)


def test_forks_go_on_independently_and_equal_upstream(backend: NumpyBackend, golden: Golden) -> None:
    session = Session(backend)
    prefill(session, backend, golden)
    fork = session.fork()
    for token in (5, 6, 7, 8, 9):
        fork.decode(token)
    assert decode_worst(session, golden) <= ATOL
    fork.rewind(fork.checkpoint_at(len(golden["input_ids"])))
    session.close()
    assert decode_worst(fork, golden) <= ATOL


def test_the_capacity_leaves_room_and_grows_once_when_it_is_full(backend: NumpyBackend) -> None:
    session = Session(backend)
    append_text(session, list(range(64)))
    assert session.capacity == 128
    append_text(session, list(range(64, 120)))
    for token in range(10):
        session.decode(token)
    assert session.length == 130
    assert session.capacity == 256
    assert backend.states[0].grown_to == [256]
    whole = Session(backend)
    ids = [*range(120), *range(9)]
    append_text(whole, ids)
    assert np.allclose(whole.decode(9), session_logits_after(session, 9), atol=1e-5)


def session_logits_after(session: Session, token: int) -> np.ndarray:
    session.rewind(session.checkpoint_at(129))
    return session.decode(token)


def test_more_tokens_than_the_context_holds_are_refused_before_anything_runs(backend: NumpyBackend) -> None:
    session = Session(backend, max_context_tokens=10)
    with pytest.raises(
        ContextOverflowError, match=r"0 tokens are in the cache and 11 would follow, 11 in all"
    ):
        append_text(session, list(range(11)))
    assert backend.runs == []
    assert session.length == 0
    append_text(session, list(range(9)))
    session.decode(1)
    assert session.capacity == 10
    with pytest.raises(ContextOverflowError, match="holds 10"):
        session.decode(1)
    assert session.length == 10


def test_positions_beyond_the_models_are_refused(backend: NumpyBackend) -> None:
    ids = np.zeros(40961, np.int64)
    session = Session(backend)
    with pytest.raises(ContextOverflowError, match="position 40961; the model was made for 40960"):
        session.prefill(ids, layout(ids, [], TOKENS))


def test_a_prompt_beyond_the_memory_limit_is_refused_with_the_numbers_and_nothing_allocated(
    backend: NumpyBackend,
) -> None:
    budget = MemoryBudget(limit_bytes=200_000)
    session = Session(backend, budget=budget)
    ids = list(range(200))
    with pytest.raises(MemoryBudgetError, match=r"kv cache 0\.4 MiB.*memory_limit_bytes allows 0\.2 MiB"):
        append_text(session, ids)
    assert backend.states == []
    assert budget.held_bytes == 0


def test_closing_a_session_gives_its_budget_back(backend: NumpyBackend) -> None:
    budget = MemoryBudget()
    session = Session(backend, budget=budget)
    append_text(session, list(range(5)))
    # 3 layers x 2 kv heads x (32 + 16) numbers x 4 bytes x 128 positions
    assert budget.held_bytes == 3 * 2 * 48 * 4 * 128
    fork = session.fork()
    assert budget.held_bytes == 2 * 3 * 2 * 48 * 4 * 128
    session.close()
    session.close()
    del fork
    assert budget.held_bytes == 0
    with pytest.raises(SessionClosedError):
        session.decode(1)


def test_a_session_that_saw_a_logit_that_is_not_finite_is_closed(backend: NumpyBackend) -> None:
    session = Session(backend)
    append_text(session, list(range(5)))
    backend.poison = True
    with pytest.raises(SessionClosedError, match="not finite"):
        session.decode(1)
    backend.poison = False
    with pytest.raises(SessionClosedError, match="is closed"):
        session.decode(1)
    assert backend.states[0].closed


def test_bad_input_changes_nothing(backend: NumpyBackend) -> None:
    session = Session(backend)
    with pytest.raises(InputError, match="empty"):
        session.decode(1)
    with pytest.raises(InputError, match=r"outside the vocabulary 0\.\.319"):
        append_text(session, [1, 320])
    with pytest.raises(InputError, match="start_length and start_t"):
        session.prefill(np.array([1, 2]), layout([1, 2], [], TOKENS, start_length=4, start_t=4))
    with pytest.raises(InputError, match="layout is of 2 tokens"):
        session.prefill(np.array([1, 2, 3]), text_layout(session, [1, 2]))
    with pytest.raises(InputError, match="visual_tokens has shape"):
        session.prefill(
            np.array([318, 317, 319]), layout([318, 317, 319], [PatchGrid(2, 2)], TOKENS), np.zeros((2, 64))
        )
    append_text(session, [1, 2])
    with pytest.raises(InputError, match="token id -1"):
        session.decode(-1)
    assert session.length == 2
    assert backend.runs == [2]
