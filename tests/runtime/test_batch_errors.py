"""One request of a batch fails: the others get the answers that they get alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS

from neo_edge import Request
from neo_edge.errors import (
    BackendError,
    ContextOverflowError,
    ImageError,
    InputError,
    MemoryBudgetError,
    NeoEdgeError,
    PromptError,
    SessionClosedError,
    TokenizerError,
)
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Completion, Model
from neo_edge_runtime.batch_session import BatchSession
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.session import Session

LENGTHS = (9, 12, 4, 12, 7)
REQUESTS = [
    # Different draws make different tokens, so that one of them is in one answer only.
    Request(f"question {number}", options=SamplingOptions(1.5, seed=number, max_new_tokens=length))
    for number, length in enumerate(LENGTHS)
]
FAILING = 1


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer) as model:
        yield model
    assert all(state.closed for state in backend.states)
    assert (model._budget.held_bytes, model._budget.reserved_bytes) == (0, 0)


def alone(model: Model) -> list[Completion]:
    return [model.generate(asked.prompt, options=asked.options) for asked in REQUESTS]


def token_of_one(model: Model, expected: list[Completion]) -> tuple[int, int]:
    """A token that only the failing request ever feeds, in the midst of its answer, and its place."""
    fed = {token for row, found in enumerate(expected) if row != FAILING for token in found.token_ids}
    for asked in REQUESTS:
        fed.update(model.stream(asked.prompt).request.input_ids.tolist())
    mine = expected[FAILING].token_ids
    place = next(place for place in range(2, len(mine) - 1) if mine[place] not in (*fed, *mine[:place]))
    return mine[place], place


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("poisoned_token", SessionClosedError, "a logit that is not finite after .* the sequence has left"),
        ("failing_token", BackendError, "the decoder graph failed"),
    ],
)
def test_a_step_that_fails_for_one_ends_that_one_and_no_other(
    model: Model,
    backend: NumpyBackend,
    batch_size: int,
    kind: Literal["poisoned_token", "failing_token"],
    error: type[NeoEdgeError],
    message: str,
) -> None:
    expected = alone(model)
    token, place = token_of_one(model, expected)
    setattr(backend, kind, token)
    found = model.generate_batch(REQUESTS, batch_size=batch_size, on_error="return")
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        if row == FAILING:
            assert one.stop_reason == "error"
            assert one.token_ids == other.token_ids[: place + 1]
            with pytest.raises(error, match=message):
                raise one.error or AssertionError
        else:
            assert (one.token_ids, one.text, one.stop_reason, one.error) == (
                other.token_ids,
                other.text,
                other.stop_reason,
                None,
            )


@pytest.mark.parametrize(
    ("kind", "error"), [("poisoned_token", SessionClosedError), ("failing_token", BackendError)]
)
def test_a_prompt_that_fails_as_it_runs_fails_alone(
    model: Model,
    backend: NumpyBackend,
    kind: Literal["poisoned_token", "failing_token"],
    error: type[NeoEdgeError],
) -> None:
    expected = alone(model)
    used = {token for answer in expected for token in answer.token_ids}
    token = next(token for token in range(256, 316) if token not in used)  # beyond the bytes of any question
    requests: list[Request] = [*REQUESTS[:2], Request([1, token, 2]), *REQUESTS[2:]]
    setattr(backend, kind, token)
    found = model.generate_batch(requests, batch_size=2, on_error="return")
    failed = found.pop(2)
    assert isinstance(failed.error, error)
    assert (failed.stop_reason, failed.token_ids, failed.text) == ("error", (), "")
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            Request("<image> <image>", [np.zeros((64, 64, 3), np.uint8)]),
            PromptError,
            "request 1: .*2 <image> places for 1 images",
        ),
        (Request("a", [b"broken"]), ImageError, "request 1: .*cannot be read"),
        (Request([1, 320]), InputError, "request 1: token id 320"),
        (Request("x" * 60, name="the long one"), ContextOverflowError, "the long one: .*holds 50"),
    ],
)
def test_a_request_that_cannot_be_asked_is_refused_alone(
    backend: NumpyBackend, tokenizer: Tokenizer, bad: Request, error: type[NeoEdgeError], message: str
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_context_tokens=50)
    options = SamplingOptions(max_new_tokens=3)
    stream = model.stream_batch(
        [Request("good"), bad, Request("good")], options=options, on_error="return", batch_size=2
    )
    assert stream.requests[1] is None
    first, refused, last = stream.finish()
    with pytest.raises(error, match=message):
        raise refused.error or AssertionError
    assert refused.stop_reason == "error"
    assert refused.usage.prompt_tokens == 0
    assert first.token_ids == last.token_ids == model.generate("good", options=options).token_ids


def test_a_bundle_without_a_tokenizer_refuses_words_only(backend: NumpyBackend) -> None:
    found = Model(backend, tokens=None).generate_batch([Request("a"), Request([4])], on_error="return")
    assert isinstance(found[0].error, TokenizerError)
    assert found[1].error is None


def test_a_request_too_large_for_the_memory_is_refused_alone(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=1_500_000)
    requests = [Request("a"), Request("x" * 1000), Request("b")]
    options = SamplingOptions(max_new_tokens=4)
    found = model.generate_batch(requests, options=options, batch_size=2, on_error="return")
    with pytest.raises(MemoryBudgetError, match="request 1: appending 1019 tokens .*memory_limit_bytes"):
        raise found[1].error or AssertionError
    assert [len(one.token_ids) for one in found] == [4, 0, 4]
    assert model._budget.held_bytes == 0


def test_without_asking_for_it_an_error_of_one_ends_the_batch(model: Model, backend: NumpyBackend) -> None:
    backend.failing_token, _ = token_of_one(model, alone(model))
    with pytest.raises(BackendError, match="the decoder graph failed"):
        model.generate_batch(REQUESTS)


def test_another_word_for_what_to_do_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="on_error is 'ignore'; it must be one of raise, return"):
        model.generate_batch(REQUESTS, on_error="ignore")  # type: ignore[arg-type]


def test_an_error_is_its_type_and_message_in_json() -> None:
    failed = Completion.of_error(ImageError("a.png is no picture")).to_dict()
    assert json.loads(json.dumps(failed))["error"] == {"type": "ImageError", "message": "a.png is no picture"}


def test_who_takes_the_place_of_a_spoilt_sequence_finds_nothing_of_it(backend: NumpyBackend) -> None:
    def prefilled(*ids: int) -> Session:
        from neo_edge.positions import layout

        session = Session(backend)
        session.prefill(np.array(ids), layout(ids, [], TOKENS))
        return session

    backend.poisoned_token = 300
    with BatchSession(backend, rows=2) as batch:
        spoilt, good = batch.join(prefilled(*range(1, 40))), batch.join(prefilled(5, 6))
        found = batch.decode_each({spoilt: 300, good: 7})
        assert isinstance(found[spoilt], SessionClosedError)
        assert batch.rows == (good,)
        later = batch.join(prefilled(8, 9))
        found = batch.decode_each({later: 10, good: 11})
        with prefilled(8, 9) as session:
            np.testing.assert_allclose(found[later], session.decode(10), atol=1e-5)  # type: ignore[arg-type]


def test_a_sequence_that_finds_no_memory_for_its_step_alone_leaves(backend: NumpyBackend) -> None:
    from neo_edge.positions import layout

    budget = MemoryBudget(10**9)
    with BatchSession(backend, rows=2, budget=budget) as batch:
        rows = []
        for ids in ((1, 2), (3, 4)):
            with Session(backend, budget=budget) as session:
                session.prefill(np.array(ids), layout(ids, [], TOKENS))
                rows.append(batch.join(session))
        budget.limit_bytes, backend.failing_token = budget.held_bytes, 300
        found = batch.decode_each(dict(zip(rows, (300, 5), strict=True)))
        assert [type(found[row]) for row in rows] == [MemoryBudgetError, MemoryBudgetError]
        assert batch.rows == ()
    assert budget.held_bytes == 0
