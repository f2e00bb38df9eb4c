"""Answers of a model with random weights are what their constraints say, and nothing else changes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from constraint_cases import WORDS, is_of, random_schemas
from hypothesis import given
from hypothesis import strategies as st
from numpy_backend import NumpyBackend
from PIL import Image
from tiny_golden import TOKENS

from neo_edge.errors import AnswerError, ConstraintError, MissingExtraError
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import Tokenizer
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime import Choices, Completion, JsonSchema, Model, Regex, Request, StopReason, Usage
from neo_edge_runtime.constraint_matching import TokenMatcher
from neo_edge_runtime.sampling import Sampler

ENDING = SpecialTokens(TOKENS.img_context, TOKENS.img_start, TOKENS.img_end, eos=(316, 314))
PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    with Model(backend, tokens=ENDING, tokenizer=tokenizer, max_pixels=64 * 64) as model:
        yield model


def drawn(seed: int, **changes: object) -> SamplingOptions:
    return SamplingOptions(**{"temperature": 2.0, "seed": seed, **changes})  # type: ignore[arg-type]


def test_random_schemas_and_choices_always_give_what_they_say(model: Model) -> None:
    rng = random.Random(3)
    for seed, schema in enumerate(random_schemas(25)):
        answer = model.generate("?", constraint=JsonSchema(schema), options=drawn(seed))
        assert answer.stop_reason in ("eos", "complete")
        assert is_of(schema, answer.json()), (schema, answer.text)
        choices = rng.sample(WORDS, rng.randint(1, len(WORDS)))
        answer = model.generate("?", constraint=Choices(choices), options=drawn(seed, top_k=3, top_p=0.9))
        assert answer.stop_reason in ("eos", "complete")
        assert answer.text in choices


def test_an_answer_ends_without_a_step_where_nothing_may_follow(model: Model, backend: NumpyBackend) -> None:
    answer = model.generate("?", constraint=Choices(["no"]))
    assert (answer.text, answer.stop_reason, answer.token_ids) == ("no", "complete", (ord("n"), ord("o")))
    assert backend.runs[1:] == [1]  # behind the prompt, one token was fed: n


def test_a_choice_that_begins_another_may_be_the_answer(model: Model) -> None:
    found = {
        (answer.text, answer.stop_reason)
        for seed in range(30)
        for answer in [
            model.generate("?", constraint=Choices(["a", "ab"]), options=drawn(seed, temperature=50))
        ]
    }
    assert found == {("a", "eos"), ("ab", "complete")}


def test_the_limit_tells_a_whole_answer_from_a_beginning(model: Model) -> None:
    def at_most(tokens: int) -> Completion:
        return model.generate("?", constraint=Regex("a{3,9}"), options=SamplingOptions(max_new_tokens=tokens))

    assert [(answer.text, answer.stop_reason) for answer in map(at_most, (2, 3, 9))] == [
        ("aa", "max_tokens"),
        ("aaa", "complete"),
        (at_most(9).text, at_most(9).stop_reason),
    ]
    assert re.fullmatch("a{3,9}", at_most(9).text)
    assert at_most(9).stop_reason in ("eos", "complete")


def test_a_constraint_that_cannot_be_held_to_runs_nothing(
    model: Model, backend: NumpyBackend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constraint, message in ((Regex("("), "the pattern"), (JsonSchema({"not": {}}), "the schema")):
        with pytest.raises(ConstraintError, match=f"{message} cannot be held to"):
            model.stream("?", constraint=constraint)
        with pytest.raises(ConstraintError, match=f"second: {message} cannot be held to"):
            model.generate_batch([Request("?"), Request("?", constraint=constraint, name="second")])
    endless = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    with pytest.raises(ConstraintError, match="the model has no token that ends an answer"):
        endless.stream("?", constraint=Choices(["a"]))
    with pytest.raises(ConstraintError, match="needs a tokenizer"):
        Model(backend, tokens=ENDING).stream([1, 2], constraint=Choices(["a"]))
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"neo-edge\[constrain\]"):
        model.stream("?", constraint=Choices(["a"]))
    assert backend.runs == []


def test_a_batch_gives_each_request_its_own_constraint(model: Model) -> None:
    asked = [
        Request("?", constraint=Choices(["left", "right"])),
        Request("?", options=SamplingOptions(max_new_tokens=4)),
        Request("?", [PICTURE], constraint=JsonSchema({"type": "integer", "minimum": 7, "maximum": 9})),
        Request("?", constraint=Regex("(")),
    ]
    answers = model.generate_batch(asked, batch_size=3, on_error="return")
    assert answers[0].text in ("left", "right")
    assert answers[1].stop_reason == "max_tokens"
    assert answers[1].token_ids == model.generate("?", options=SamplingOptions(max_new_tokens=4)).token_ids
    assert answers[2].json() in (7, 8, 9)
    assert isinstance(answers[3].error, ConstraintError)
    for request, answer in zip(asked[:3], answers[:3], strict=True):
        alone = model.generate(
            request.prompt, request.images, constraint=request.constraint, options=request.options
        )
        assert alone.token_ids == answer.token_ids


def test_a_constraint_that_breaks_while_it_is_followed_ends_its_own_answer_only(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = TokenMatcher.push

    def breaking(matcher: TokenMatcher, token: int) -> None:
        followed(matcher, ord("x") if token == ord("b") else token)  # which the pattern does not know

    monkeypatch.setattr(TokenMatcher, "push", breaking)
    broken = Request("?", constraint=Regex("aba"))
    with pytest.raises(ConstraintError, match="the answer cannot go on within its constraint"):
        model.generate("?", constraint=broken.constraint)
    answers = model.generate_batch([broken, Request("?", constraint=Regex("aaa"))], on_error="return")
    assert [answer.stop_reason for answer in answers] == ["error", "complete"]
    assert isinstance(answers[0].error, ConstraintError)
    assert [answer.text for answer in answers] == ["ab", "aaa"]


def test_a_conversation_goes_on_behind_a_constrained_answer(model: Model) -> None:
    with model.chat() as chat:
        first = chat.send("?", [PICTURE], constraint=Choices(["left", "right"]))
        assert first.text in ("left", "right")
        with chat.stream("and?", constraint=Regex("[0-9]{2}")) as stream:
            text = "".join(stream)
        assert re.fullmatch("[0-9]{2}", text)
        assert stream.completion.usage.cached_tokens > first.usage.prompt_tokens
        free = chat.send("so?", options=SamplingOptions(max_new_tokens=3))
        assert free.stop_reason in ("max_tokens", "eos")


def test_questions_about_what_is_watched_are_bound_by_choices_a_schema_or_any_constraint(
    model: Model,
) -> None:
    with model.watch(every=None) as live:
        live.add(PICTURE, 0.0)
        cached = live.stats().cache_tokens
        assert live.ask("?", choices=["left", "right"]).finish().text in ("left", "right")
        schema = {"type": "integer", "minimum": 4, "maximum": 6}
        assert live.ask("?", schema=schema).finish().json() in (4, 5, 6)
        assert live.ask("?", constraint=Regex("no")).finish().text == "no"
        with pytest.raises(ConstraintError, match="choices, schema and constraint bind the same answer"):
            live.ask("?", choices=["a"], schema=schema)
        with pytest.raises(ConstraintError, match="the schema cannot be held to"):
            live.ask("?", schema={"not": {}})
        assert live.stats().cache_tokens == cached
        assert live.add(PICTURE, 1.0) == "used"


def test_an_answer_that_never_comes_to_its_choice_is_a_beginning(model: Model) -> None:
    limited = model.generate(
        "?", constraint=Choices(["left"], after="Answer: "), options=SamplingOptions(max_new_tokens=6)
    )
    assert (limited.stop_reason, len(limited.token_ids)) == ("max_tokens", 6)


@given(seed=st.integers(0, 2**32 - 1), greedy=st.booleans())
def test_all_tokens_allowed_is_as_none_asked_for(seed: int, greedy: bool) -> None:
    options = SamplingOptions(
        temperature=0.0 if greedy else 1.3, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=seed
    )
    rng = np.random.default_rng(seed)
    free, bound = Sampler(options, [1, 2]), Sampler(options, [1, 2])
    for _ in range(5):
        logits = rng.normal(size=100).astype(np.float32)
        assert free.sample(logits.copy()) == bound.sample(logits.copy(), np.arange(100))


@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.0, 0.7, 100.0]))
def test_only_allowed_tokens_are_drawn_and_greedily_the_likeliest_of_them(
    seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    allowed = np.flatnonzero(rng.random(100) < 0.1)
    allowed = allowed if len(allowed) else np.array([17])
    logits = rng.normal(size=100).astype(np.float32)
    token = Sampler(SamplingOptions(temperature=temperature, top_k=200, seed=seed)).sample(
        logits.copy(), allowed
    )
    assert token in allowed
    if temperature == 0:
        assert logits[token] == logits[allowed].max()


def completion(text: str, reason: StopReason) -> Completion:
    return Completion(text, (), reason, Usage(0, 0, 0, 0, None, None, None))


@pytest.mark.parametrize("reason", ["max_tokens", "cancelled", "context_full", "error"])
def test_a_beginning_is_no_json_even_where_it_reads_as_some(reason: StopReason) -> None:
    with pytest.raises(
        AnswerError, match=f"the answer '12' is only the beginning of one, since it ended by {reason}"
    ):
        completion("12", reason).json()


def test_json_is_read_from_any_whole_answer_and_words_are_none() -> None:
    for reason in ("eos", "complete", "stop_string"):
        assert completion('{"a": [1, null]}', reason).json() == {"a": [1, None]}
    with pytest.raises(
        AnswerError, match=r"the answer 'It is red.' is no JSON .*: ask with constraint=JsonSchema"
    ):
        completion("It is red.", "eos").json()
    with pytest.raises(AnswerError, match="is no JSON"):
        completion("[" * 100_000, "eos").json()
    assert json.loads(json.dumps(completion("1", "complete").to_dict()))["stop_reason"] == "complete"
