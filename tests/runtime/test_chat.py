"""Conversations over the numpy oracle: what a kept cache saves, and that it changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS

from neo_edge.errors import BackendError, ContextOverflowError, InputError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.prompt import Message, encode_followup
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Chat, Model

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
SHORT = SamplingOptions(max_new_tokens=6)


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Model:
    return Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=64 * 96)


def logits_of_everything(model: Model, backend: NumpyBackend, chat: Chat) -> np.ndarray:
    """The last logits when the same tokens go through a fresh session at once."""
    image = model._prompts.size([PICTURE])
    ids = model._prompts.expand(chat._ids[: chat.session.length], [])
    from neo_edge.positions import layout
    from neo_edge_runtime.vision_encoder import encode_images

    session = model.session()
    laid_out = layout(ids, [image[0].grid], TOKENS)
    return session.prefill(np.array(ids), laid_out, encode_images(backend, image))[0]


def test_a_second_question_about_the_same_picture_sends_only_the_question(
    model: Model, backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    chat = model.chat()
    first = chat.send("where?", [PICTURE], options=SHORT)
    assert first.usage.cached_tokens == 0
    assert first.usage.visual_tokens == 6
    calls, sent = len(backend.vision_calls), chat.session.sent_tokens
    cached = chat.session.length
    second = chat.send("and now?", options=SamplingOptions(max_new_tokens=1))
    question = encode_followup(tokenizer, Message("user", "and now?"), answer_closed=False)
    # The answer's last token was chosen but never fed: it goes with the question.
    assert chat.session.sent_tokens - sent == len(question) + 1
    assert backend.runs[-1] == len(question) + 1
    assert len(backend.vision_calls) == calls
    assert second.usage.cached_tokens == cached
    assert second.usage.prompt_tokens == cached + len(question) + 1
    assert second.usage.visual_tokens == 0


def test_a_kept_cache_gives_the_logits_of_a_whole_prefill(model: Model, backend: NumpyBackend) -> None:
    chat = model.chat()
    chat.send("where?", [PICTURE], options=SHORT)
    chat.send("and now?", options=SHORT)
    whole = logits_of_everything(model, backend, chat)
    chat.session.rewind(chat.session.checkpoint_at(chat.session.length - 1))
    assert np.allclose(chat.session.decode(chat._ids[chat.session.length]), whole, atol=1e-5)


def test_rewinding_takes_a_question_back(model: Model) -> None:
    chat = model.chat()
    chat.send("where?", [PICTURE], options=SHORT)
    second = chat.send("and now?", options=SHORT)
    length = chat.session.length
    chat.rewind()
    assert chat.turns == 1
    again = chat.send("and now?", options=SHORT)
    assert again.token_ids == second.token_ids
    assert chat.session.length == length
    chat.rewind(2)
    assert (chat.turns, chat.session.length) == (0, 0)
    with pytest.raises(InputError, match="1 turns cannot be taken back: the conversation has 0"):
        chat.rewind()


def test_a_forked_conversation_goes_its_own_way(model: Model) -> None:
    chat = model.chat()
    chat.send("where?", [PICTURE], options=SHORT)
    fork = chat.fork()
    a, b = chat.send("left?", options=SHORT), fork.send("right?", options=SHORT)
    reference = model.chat()
    reference.send("where?", [PICTURE], options=SHORT)
    assert reference.send("right?", options=SHORT).token_ids == b.token_ids
    chat.rewind()
    assert chat.send("left?", options=SHORT).token_ids == a.token_ids
    fork.close()
    assert chat.send("more?", options=SHORT).usage.completion_tokens == 6


def test_a_question_that_is_refused_leaves_the_conversation_as_it_was(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_context_tokens=120, max_pixels=64 * 96)
    chat = model.chat()
    chat.send("where?", [PICTURE], options=SHORT)
    before = chat.session.checkpoint
    with pytest.raises(ContextOverflowError, match="this session holds 120"):
        chat.send("x" * 100)
    with pytest.raises(InputError):
        chat.send("a", [b"broken"])
    assert chat.session.checkpoint == before
    assert chat.turns == 1
    assert chat.send("b", options=SHORT).usage.cached_tokens == before.length


def test_an_answer_that_is_left_open_is_cancelled_by_the_next_question(model: Model) -> None:
    chat = model.chat()
    stream = chat.stream("hello", options=SamplingOptions(max_new_tokens=1000))
    next(stream)
    second = chat.send("b", options=SHORT)
    assert stream.completion.stop_reason == "cancelled"
    assert chat.turns == 2
    assert second.usage.cached_tokens > 0


def test_a_question_that_was_cancelled_before_it_ran_was_not_asked(model: Model) -> None:
    chat = model.chat(system="be brief")
    stream = chat.stream("hello")
    stream.cancel()
    assert stream.finish().stop_reason == "cancelled"
    assert (chat.turns, chat.session.length) == (0, 0)
    # The next question is the first one, system prompt included.
    first = model.stream("b", system="be brief").request
    assert chat.send("b", options=SHORT).usage.prompt_tokens == len(first.input_ids)


def test_a_question_whose_answer_failed_was_not_asked(model: Model, backend: NumpyBackend) -> None:
    chat = model.chat()
    chat.send("where?", [PICTURE], options=SHORT)
    before, drawn = chat.session.checkpoint, SamplingOptions(max_new_tokens=6, temperature=2, seed=1)
    with chat.fork() as aside:
        expected = aside.send("and now?", options=drawn).token_ids
    backend.failing_token = expected[0]
    with pytest.raises(BackendError, match="as the test wanted"):
        chat.send("and now?", options=drawn)
    assert backend.runs[-1] == 1, "the prompt ran, and the first token of the answer did not"
    assert (chat.turns, chat.session.checkpoint) == (1, before)
    backend.failing_token = None
    assert chat.send("and now?", options=drawn).token_ids == expected


def test_a_conversation_that_spoilt_its_cache_is_over(model: Model, backend: NumpyBackend) -> None:
    chat = model.chat()
    stream = chat.stream("hello", options=SHORT)
    next(stream)
    backend.poison = True
    with pytest.raises(SessionClosedError, match="not finite"):
        list(stream)
    with pytest.raises(SessionClosedError, match="the session is closed"):
        chat.send("again")


def test_an_answer_that_ended_by_itself_is_closed_once(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    from neo_edge.tokens import SpecialTokens

    free = Model(backend, tokens=TOKENS, tokenizer=tokenizer).generate("a", options=SHORT)
    eos = free.token_ids[2]
    model = Model(backend, tokens=SpecialTokens(317, 318, 319, (eos,)), tokenizer=tokenizer)
    chat = model.chat()
    assert chat.send("a", options=SHORT).stop_reason == "eos"
    assert chat.session.length == len(chat._ids), "every token of an answer that ended by itself was fed"
    sent = chat.session.sent_tokens
    chat.send("b", options=SamplingOptions(max_new_tokens=1))
    assert chat.session.sent_tokens - sent == len(
        encode_followup(tokenizer, Message("user", "b"), answer_closed=False)
    )


def test_an_answer_that_ends_in_an_image_token_can_be_followed(model: Model) -> None:
    for stray in (TOKENS.img_context, TOKENS.img_start):
        chat = model.chat()
        chat.send("a", options=SHORT)
        chat._ids[-1] = stray
        assert chat.send("b", [PICTURE], options=SHORT).usage.visual_tokens == 6


def test_a_picture_in_a_later_question_is_encoded_then(model: Model, backend: NumpyBackend) -> None:
    with model.chat() as chat:
        chat.send("a", options=SHORT)
        assert backend.vision_calls == []
        assert chat.send("compare <image> with it", [PICTURE], options=SHORT).usage.visual_tokens == 6
    with pytest.raises(SessionClosedError):
        chat.send("b")


def test_the_repetition_penalty_counts_the_whole_conversation(model: Model, tokenizer: Tokenizer) -> None:
    penalized = SamplingOptions(max_new_tokens=20, repetition_penalty=50.0)
    text = "".join(map(chr, range(33, 127)))
    chat = model.chat()
    chat.send(text, options=penalized)
    assert not set(tokenizer.encode(text)) & set(chat.send("a", options=penalized).token_ids)


def test_a_fork_of_an_empty_conversation_keeps_its_system_prompt(model: Model) -> None:
    chat = model.chat(system="be brief")
    asked = [one.stream("a").request.input_ids.tolist() for one in (chat.fork(), chat)]
    assert asked[0] == asked[1]


def test_pictures_of_a_later_question_stand_in_the_protocols_style(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol="neo1.0", max_pixels=64 * 96)
    chat = model.chat()
    chat.send("a", options=SHORT)
    later = chat.stream("b", [PICTURE, PICTURE]).request.input_ids.tolist()
    assert "user\nImage-1: \nImage-2: \nb" in tokenizer.decode(later)
