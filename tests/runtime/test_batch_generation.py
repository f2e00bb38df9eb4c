"""Several requests at once through the public face, over the numpy oracle: each gets the answer it gets alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS

from neo_edge import Request
from neo_edge.errors import (
    ContextOverflowError,
    ImageError,
    InputError,
    MemoryBudgetError,
    PromptError,
    SessionClosedError,
    TokenizerError,
)
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import Tokenizer
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime import Completion, Frame, Model, load

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)
PIXELS = 64 * 96  # six visual tokens


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=PIXELS) as model:
        yield model
    assert all(state.closed for state in backend.states)
    assert model._budget.held_bytes == 0


def options(**changes: object) -> SamplingOptions:
    return SamplingOptions(**{"max_new_tokens": 12, **changes})  # type: ignore[arg-type]


def mixed() -> list[Request]:
    """Text, pictures and a video, of different lengths, each sampled in its own way."""
    return [
        Request("where?", [PICTURES[0]], options=options(max_new_tokens=5)),
        Request("a rather longer question without any picture", options=options(max_new_tokens=9)),
        Request("<image> or <image>?", [PICTURES[1], PICTURES[2]], options=options(temperature=1.5, seed=3)),
        Request("when?", frames=[Frame(PICTURES[0], 0.0), Frame(PICTURES[1], 1.5)], options=options(top_k=5)),
        Request([1, 2, 3], options=options(max_new_tokens=1)),
        Request("b", system="be brief", options=options(repetition_penalty=1.3, temperature=0.8, seed=1)),
        Request("when?", frames=[Frame(PICTURES[2], 0.5)], video_duration_s=2.0, fps=1.0),
    ]


def ask_alone(model: Model, asked: Request, others: SamplingOptions | None = None) -> Completion:
    return model.generate(
        asked.prompt,
        asked.images,
        asked.frames,
        video_duration_s=asked.video_duration_s,
        fps=asked.fps,
        system=asked.system,
        options=asked.options if asked.options is not None else others,
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_each_request_gets_the_answer_it_gets_alone(model: Model, batch_size: int) -> None:
    others = options(max_new_tokens=7)
    together = model.generate_batch(mixed(), options=others, batch_size=batch_size)
    for found, asked in zip(together, mixed(), strict=True):
        expected = ask_alone(model, asked, others)
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        assert found.stop_reason == expected.stop_reason
        for field in ("prompt_tokens", "cached_tokens", "visual_tokens", "completion_tokens"):
            assert getattr(found.usage, field) == getattr(expected.usage, field)
    assert [len(found.token_ids) for found in together] == [5, 9, 12, 12, 1, 12, 7]


def test_rows_decode_together_and_a_free_row_takes_the_next_request(
    model: Model, backend: NumpyBackend
) -> None:
    lengths = [3, 9, 5, 2]
    requests = [Request([1, 2], options=options(max_new_tokens=length)) for length in lengths]
    model.generate_batch(requests, batch_size=2)
    steps = [batch for batch, new in zip(backend.batches, backend.runs, strict=True) if new == 1]
    # The first token comes from the prefill; 3 and 9 begin, 5 follows 3, 2 follows 5, and 9 ends alone.
    assert steps == [2] * (2 + 4 + 1) + [1]
    assert sum(steps) == sum(lengths) - len(lengths)


def test_pieces_of_a_row_put_together_are_its_text_and_the_last_has_the_completion(model: Model) -> None:
    requests = [Request(text, options=options()) for text in ("hello", "what?", "one", "two")]
    stream = model.stream_batch(requests, batch_size=3)
    assert stream.completions == [None] * 4
    texts, ended = [""] * 4, []
    for row, text, completion in stream:
        assert row not in ended
        assert text or completion
        texts[row] += text
        if completion is not None:
            ended.append(row)
            assert stream.completions[row] is completion
    assert sorted(ended) == [0, 1, 2, 3]
    assert texts == [completion.text for completion in stream.finish()]
    assert len(stream.requests) == 4


def test_pieces_of_the_rows_alternate(model: Model) -> None:
    requests = [Request(text, options=options()) for text in ("hello", "what?")]
    rows = [row for row, text, _ in model.stream_batch(requests) if text]
    assert rows != sorted(rows)


def test_stop_strings_and_end_tokens_are_each_rows_own(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    plain = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    free = plain.generate("hello", options=options(max_new_tokens=40))
    stop = free.text[5:8]
    eos = plain.generate("what?", options=options()).token_ids[4]
    model = Model(backend, tokens=SpecialTokens(317, 318, 319, eos=(eos,)), tokenizer=tokenizer)
    requests = [
        Request("hello", options=options(max_new_tokens=40, stop=(stop,))),
        Request("what?", options=options()),
        Request("one", options=options()),
    ]
    found = model.generate_batch(requests)
    assert [completion.stop_reason for completion in found[:2]] == ["stop_string", "eos"]
    assert [found[row].text for row in range(3)] == [ask_alone(model, asked).text for asked in requests]


def test_no_requests_give_no_answers(model: Model, backend: NumpyBackend) -> None:
    assert model.generate_batch([]) == []
    assert backend.runs == []


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            Request("<image> <image>", [PICTURES[0]]),
            PromptError,
            "request 1: .*2 <image> places for 1 images",
        ),
        (Request("a", [b"broken"]), ImageError, "request 1: .*cannot be read"),
        (Request("a", PICTURES[0]), InputError, "request 1: .*pass a list"),
        (Request([]), PromptError, "request 1: .*not empty"),
        (Request([1, 320]), InputError, "request 1: token id 320"),
        (Request("a", fps=1.0), PromptError, "request 1: .*pass frames"),
        (Request("x" * 60), ContextOverflowError, "request 1: .*holds 50"),
        ("a question", InputError, r"request 1 is of type str: pass neo_edge\.Request"),
    ],
)
def test_one_bad_request_is_named_and_none_runs(
    backend: NumpyBackend, tokenizer: Tokenizer, bad: Request, error: type[Exception], message: str
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=PIXELS, max_context_tokens=50)
    with pytest.raises(error, match=message):
        model.generate_batch([Request("good"), bad, Request("good")])
    assert backend.runs == backend.vision_calls == backend.states == []


def test_what_is_no_list_of_requests_and_a_batch_of_nothing_are_refused(model: Model) -> None:
    with pytest.raises(InputError, match="takes a list of requests"):
        model.generate_batch(Request("a"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size of 1 or above; found list and 0"):
        model.generate_batch([Request("a")], batch_size=0)


def test_a_bundle_without_a_tokenizer_takes_token_ids_only(backend: NumpyBackend) -> None:
    model = Model(backend, tokens=None)
    assert len(model.generate_batch([Request([1, 2, 3]), Request([4])], options=options())) == 2
    with pytest.raises(TokenizerError, match="request 1: .*no tokenizer"):
        model.generate_batch([Request([1, 2, 3]), Request("a")])


def test_a_batch_too_large_for_the_memory_is_refused_with_the_numbers(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=900_000)
    requests = [Request("hello", options=options()) for _ in range(6)]
    with pytest.raises(
        MemoryBudgetError,
        match=r"request 0, in a batch of 6 of up to \d+ tokens: .*kv cache 1\.0 MiB.*smaller batch_size",
    ):
        model.generate_batch(requests)
    assert backend.runs == backend.states == []
    assert len({found.text for found in model.generate_batch(requests, batch_size=2)}) == 1


def test_a_request_that_finds_no_memory_waits_until_a_row_has_ended(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    # The three rows' caches, and one prefill beside them. When the second row ends, they have grown from 128 places to
    # 256, and the fourth request's prefill has no room.
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=1_200_000)
    lengths = (200, 100, 200, 3)
    requests = [Request("x" * 30, options=options(max_new_tokens=length)) for length in lengths]
    found = model.generate_batch(requests, batch_size=3)
    assert [len(completion.token_ids) for completion in found] == list(lengths)
    assert {completion.stop_reason for completion in found} == {"max_tokens"}
    assert backend.batches[-3:] == [1, 1, 1], "the fourth request ran alone: its prefill and two steps"


def test_a_full_context_ends_its_row_only(
    backend: NumpyBackend, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_context_tokens=60)
    requests = [Request("x" * 30, options=options(max_new_tokens=100)), Request("y", options=options())]
    with caplog.at_level(logging.WARNING):
        full, other = model.generate_batch(requests)
    assert full.stop_reason == "context_full"
    assert full.usage.prompt_tokens + full.usage.completion_tokens == 61
    assert other.stop_reason == "max_tokens"
    assert "the answer to request 0 ends here" in caplog.text
    assert full.token_ids == ask_alone(model, requests[0]).token_ids


@pytest.mark.parametrize(("others_tokens", "reason"), [(127, "context_full"), (122, "max_tokens")])
def test_a_cache_that_may_not_grow_ends_the_row_that_needs_it_unless_another_has_left(
    backend: NumpyBackend, tokenizer: Tokenizer, others_tokens: int, reason: str
) -> None:
    # 128 places of two rows take 288 KiB, and 256 of one as much.
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=575_000)
    requests = [
        Request([1, 2, 3], options=options(max_new_tokens=200)),
        Request([4], options=options(max_new_tokens=others_tokens)),
    ]
    first, other = model.generate_batch(requests)
    assert first.stop_reason == reason
    assert len(first.token_ids) == (126 if reason == "context_full" else 200)
    assert (other.stop_reason, len(other.token_ids)) == ("max_tokens", others_tokens)
    assert first.token_ids == ask_alone(model, requests[0]).token_ids[: len(first.token_ids)]


def test_one_row_can_be_cancelled_and_the_others_go_on(model: Model) -> None:
    stream = model.stream_batch([Request(text, options=options()) for text in "abc"], batch_size=2)
    next(stream)
    stream.cancel(0)
    stream.cancel(2)
    first, second, third = stream.finish()
    assert first.stop_reason == third.stop_reason == "cancelled"
    assert 1 <= len(first.token_ids) < 12
    assert third.token_ids == ()
    assert third.usage.time_to_first_token_ms is None
    assert second.stop_reason == "max_tokens"
    with pytest.raises(InputError, match="row 3 cannot be cancelled: the batch has 3 requests"):
        stream.cancel(3)


def test_another_thread_can_cancel_all(model: Model) -> None:
    stream = model.stream_batch([Request("a"), Request("b")], options=options(max_new_tokens=100_000))
    threading.Timer(0.05, stream.cancel).start()
    assert {completion.stop_reason for completion in stream.finish()} == {"cancelled"}


def test_cancelling_before_the_first_piece_runs_nothing(model: Model, backend: NumpyBackend) -> None:
    stream = model.stream_batch([Request("a", [PICTURES[0]]), Request("b")])
    stream.cancel()
    assert {completion.stop_reason for completion in stream.finish()} == {"cancelled"}
    assert backend.runs == backend.vision_calls == []


def test_leaving_a_with_block_finishes_all_rows(model: Model, backend: NumpyBackend) -> None:
    with model.stream_batch([Request("a"), Request("b")], options=options(max_new_tokens=1000)) as stream:
        next(stream)
    assert {completion.stop_reason for completion in stream.finish()} == {"cancelled"}
    assert all(state.closed for state in backend.states)


def test_an_abandoned_stream_gives_its_memory_back(model: Model, backend: NumpyBackend) -> None:
    for _ in model.stream_batch([Request("a"), Request("b")], options=options(max_new_tokens=1000)):
        break
    assert all(state.closed for state in backend.states)
    assert model._budget.held_bytes == 0


def test_a_logit_that_is_not_finite_ends_all_rows_in_a_typed_error(
    model: Model, backend: NumpyBackend
) -> None:
    stream = model.stream_batch(
        [Request("a", options=options(max_new_tokens=1)), Request("b", options=options())]
    )
    while stream.completions[0] is None:
        next(stream)
    next(stream)
    backend.poison = True
    with pytest.raises(SessionClosedError, match="not finite"):
        list(stream)
    first, second = stream.completions
    assert first is not None
    assert second is None
    with pytest.raises(InputError, match="ended before its answers did"):
        stream.finish()


def test_a_closed_model_answers_no_batch(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    model.close()
    with pytest.raises(SessionClosedError, match="load the bundle again"):
        model.generate_batch([Request("a")])


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable", "fp16", "fp16-portable"])
def test_real_bundles_answer_a_batch_as_they_answer_its_requests(tiny_bundle: Path, variant: str) -> None:
    with load(tiny_bundle, variant=variant, threads=1, max_pixels=PIXELS) as model:
        together = model.generate_batch(mixed(), options=options(), batch_size=3)
        for found, asked in zip(together, mixed(), strict=True):
            assert found.token_ids == ask_alone(model, asked, options()).token_ids
            assert found.usage.time_to_first_token_ms is not None
            assert found.usage.time_to_first_token_ms > 0
            assert (found.usage.tokens_per_second is None) == (len(found.token_ids) == 1)
