"""Answers of the tiny model over the numpy oracle: streaming, stopping, cost."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from PIL import Image
from tiny_golden import TOKENS, read_golden

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
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime import Frame, Model

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
PIXELS = 64 * 96  # six visual tokens


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=PIXELS) as model:
        yield model
    assert backend.closed


def options(**changes: object) -> SamplingOptions:
    return SamplingOptions(**{"max_new_tokens": 12, **changes})  # type: ignore[arg-type]


def test_greedy_answers_to_token_ids_are_upstreams(backend: NumpyBackend) -> None:
    golden = read_golden("multi_image")
    as_they_are = replace(get_protocol("edge"), name="as they are", min_pixels=1024)
    model = Model(backend, tokens=TOKENS, protocol=as_they_are)
    images = [golden["image_0"], golden["image_1"]]
    answer = model.generate(golden["input_ids"], images, options=SamplingOptions(max_new_tokens=5))
    assert answer.token_ids == tuple(golden["generate_tokens"].tolist())
    assert answer.stop_reason == "max_tokens"
    assert answer.text == ""
    assert answer.usage.prompt_tokens == 31
    assert answer.usage.visual_tokens == 9


def test_pieces_put_together_are_the_text_and_the_end_says_why_and_what_it_cost(
    model: Model, backend: NumpyBackend
) -> None:
    stream = model.stream("where?", [PICTURE], options=options())
    with pytest.raises(InputError, match="not finished"):
        _ = stream.completion
    pieces = list(stream)
    completion = stream.completion
    assert "".join(pieces) == completion.text
    assert all(pieces)
    assert completion.stop_reason == "max_tokens"
    assert len(completion.token_ids) == completion.usage.completion_tokens == 12
    usage = completion.usage
    prompt = sum(backend.runs) - 11  # the last token chosen is not fed
    assert usage.prompt_tokens == prompt
    assert usage.cached_tokens == 0
    assert usage.visual_tokens == 6
    assert usage.time_to_first_token_ms is not None
    assert usage.time_to_first_token_ms > 0
    assert usage.tokens_per_second is not None
    assert usage.tokens_per_second > 0
    assert usage.peak_memory_bytes is not None
    json.dumps(completion.to_dict())


def test_a_prompt_in_words_goes_through_the_chat_template(model: Model, tokenizer: Tokenizer) -> None:
    in_words = model.generate("where?", [PICTURE], options=options())
    im_start, im_end = 315, 316
    ids = [
        *(im_start, *tokenizer.encode("user\n")),
        *(TOKENS.img_start, TOKENS.img_context, TOKENS.img_end),
        *tokenizer.encode("\nwhere?"),
        *(im_end, *tokenizer.encode("\n"), im_start, *tokenizer.encode("assistant\n")),
    ]
    in_ids = model.generate(ids, [PICTURE], options=options())
    assert in_ids.token_ids == in_words.token_ids
    assert in_ids.usage.prompt_tokens == in_words.usage.prompt_tokens == len(ids) + 5


def test_generating_leaves_no_cache_behind(model: Model, backend: NumpyBackend) -> None:
    model.generate("a", options=options())
    assert all(state.closed for state in backend.states)
    assert model._budget.held_bytes == 0


def test_an_answer_ends_at_an_end_of_text_token(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    plain = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    free = plain.generate("hello", options=options())
    eos = free.token_ids[4]
    model = Model(backend, tokens=SpecialTokens(317, 318, 319, eos=(eos,)), tokenizer=tokenizer)
    completion = model.generate("hello", options=options())
    assert completion.stop_reason == "eos"
    assert completion.token_ids == free.token_ids[: free.token_ids.index(eos)]


def test_a_stop_string_ends_the_answer_and_never_shows(model: Model) -> None:
    free = model.generate("hello", options=options(max_new_tokens=40))
    stop = free.text[5:8]
    assert len(stop) == 3
    stream = model.stream("hello", options=options(max_new_tokens=40, stop=(stop,)))
    pieces = list(stream)
    assert "".join(pieces) == free.text[: free.text.index(stop)]
    assert stream.completion.text == "".join(pieces)
    assert stream.completion.stop_reason == "stop_string"


def test_another_thread_can_cancel(model: Model) -> None:
    stream = model.stream("hello", options=options(max_new_tokens=100_000))
    threading.Timer(0.05, stream.cancel).start()
    completion = stream.finish()
    assert completion.stop_reason == "cancelled"
    assert len(completion.token_ids) < 40_000


def test_cancelling_before_the_first_piece_runs_nothing(model: Model, backend: NumpyBackend) -> None:
    stream = model.stream("hello", [PICTURE])
    stream.cancel()
    assert list(stream) == []
    assert stream.completion.stop_reason == "cancelled"
    assert stream.completion.usage.time_to_first_token_ms is None
    assert backend.runs == backend.vision_calls == []


def test_a_prefill_is_cancelled_between_its_chunks(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, chunk_tokens=5)
    stream = model.stream("x" * 40)
    original = backend.new_state

    def cancelling(*, batch: int, capacity: int) -> object:
        stream.cancel()
        return original(batch=batch, capacity=capacity)

    backend.new_state = cancelling  # type: ignore[method-assign, assignment]
    assert stream.finish().stop_reason == "cancelled"
    assert backend.runs == [5]


def test_leaving_a_with_block_finishes_the_stream(model: Model, backend: NumpyBackend) -> None:
    with model.stream("hello", options=options(max_new_tokens=1000)) as stream:
        next(stream)
    assert stream.completion.stop_reason == "cancelled"
    assert all(state.closed for state in backend.states)


def test_an_abandoned_stream_gives_its_memory_back(model: Model, backend: NumpyBackend) -> None:
    for _ in model.stream("hello", options=options(max_new_tokens=1000)):
        break
    assert all(state.closed for state in backend.states)


def test_a_full_context_ends_the_answer(
    backend: NumpyBackend, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_context_tokens=40)
    with caplog.at_level(logging.WARNING):
        completion = model.generate("hello", options=options(max_new_tokens=100))
    assert completion.stop_reason == "context_full"
    # All 40 places are taken, and one more token is chosen from the last one's logits.
    assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 41
    assert "holds 40" in caplog.text


def test_a_cache_that_may_not_grow_ends_the_answer(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    # 256 places take 288 KiB, the 384 that would follow 432 KiB.
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=430_000)
    completion = model.generate("hello", options=options(max_new_tokens=400))
    assert completion.stop_reason == "context_full"
    assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 257


def test_sampling_with_a_seed_is_repeatable(model: Model) -> None:
    chosen = options(temperature=1.5, seed=3)
    first, second = (model.generate("hello", options=chosen) for _ in range(2))
    assert first.token_ids == second.token_ids
    other = model.generate("hello", options=options(temperature=1.5, seed=4))
    assert other.token_ids != first.token_ids


def test_the_repetition_penalty_counts_the_prompt(model: Model) -> None:
    free = model.generate("hello", options=options(max_new_tokens=1))
    prompt = "hello" + chr(free.token_ids[0]) if free.token_ids[0] < 128 else "hello"
    penalized = model.generate(prompt, options=options(max_new_tokens=30, repetition_penalty=50.0))
    seen = set(model.tokenizer.encode(prompt)) if model.tokenizer else set()
    assert not seen & set(penalized.token_ids)
    assert len(set(penalized.token_ids)) == len(penalized.token_ids)


def test_frames_have_timestamps_and_a_sentence_about_the_video(model: Model, tokenizer: Tokenizer) -> None:
    frames = [Frame(PICTURE, 0.0), Frame(Image.fromarray(PICTURE), 61.5)]
    with_times = model.stream("when?", frames=frames, video_duration_s=62.0, fps=1.0)
    text = tokenizer.decode(with_times.request.input_ids.tolist())
    assert text == (
        "user\nThe time range of this video is [00:00-01:02], and the following is a series of 2 frames sampled at "
        "1.0 FPS.\n[00:00.00]:\n[01:01.50]:\nwhen?\nassistant\n"
    )
    assert with_times.request.layout.is_visual.sum() == 12
    without = model.stream("when?", frames=[Frame(PICTURE)])
    assert tokenizer.decode(without.request.input_ids.tolist()) == "user\n\nwhen?\nassistant\n"


def test_pictures_of_any_number_are_encoded_a_few_to_a_call(model: Model, backend: NumpyBackend) -> None:
    frames = [Frame(PICTURE)] * 200
    model.generate("when?", frames=frames, options=options(max_new_tokens=1))
    assert sum(backend.vision_calls) == 200 * 24
    assert len(backend.vision_calls) == 2
    assert max(backend.vision_calls) <= 4096


def test_a_protocol_says_how_to_ask(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol="neo-ov-image", max_pixels=PIXELS)
    text = tokenizer.decode(model.stream("a", [PICTURE]).request.input_ids.tolist())
    assert text.startswith("system\nReason step by step.\nuser\n\na")
    assert model.stream("a").request.options.top_k == 20
    assert "system" not in tokenizer.decode(model.stream("a", system="").request.input_ids.tolist())
    numbered = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol="neo1.0", max_pixels=PIXELS)
    text = tokenizer.decode(numbered.stream("a", [PICTURE, PICTURE]).request.input_ids.tolist())
    assert text == "user\nImage-1: \nImage-2: \na\nassistant\n"
    spatial = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol="neo-ov-spatial", max_pixels=PIXELS)
    text = tokenizer.decode(spatial.stream("a", frames=[Frame(PICTURE, 0.5)]).request.input_ids.tolist())
    assert text == "user\nFrame1 is at [00:00.50]:\na\nassistant\n"
    with pytest.raises(InputError, match="edge"):
        Model(backend, tokens=TOKENS, protocol="no such")


@pytest.mark.parametrize(("upstream_rules", "red"), [(False, 255), (True, 0)])
def test_a_model_may_treat_transparency_as_upstream_does(
    backend: NumpyBackend, tokenizer: Tokenizer, upstream_rules: bool, red: int
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, upstream_image_rules=upstream_rules)
    almost_clear = Image.new("RGBA", (64, 64), (0, 0, 0, 1))
    pixels = model.stream("a", [almost_clear]).request.images[0].pixels
    assert abs(int(pixels[0, 0, 0]) - red) <= 1


def test_larger_pictures_are_scaled_down_and_max_visual_tokens_refuses(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    large = np.zeros((700, 1000, 3), np.uint8)
    scaled = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=512 * 1024)
    assert scaled.stream("a", [large]).request.layout.is_visual.sum() == 27 * 18
    strict = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_visual_tokens=512)
    with pytest.raises(ImageError, match="682 visual tokens; this session allows 512"):
        strict.stream("a", [large])


@pytest.mark.parametrize(
    ("prompt", "changes", "error", "message"),
    [
        ("<image> <image>", {"images": [PICTURE]}, PromptError, "2 <image> places for 1 images"),
        ("a", {"images": [b"broken"]}, ImageError, "cannot be read"),
        ("a", {"images": [PICTURE], "frames": [Frame(PICTURE)]}, PromptError, "at once"),
        ("a", {"fps": 1.0}, PromptError, "pass frames"),
        ("a", {"frames": []}, PromptError, "at least one frame"),
        ("a", {"frames": [Frame(PICTURE, 2.0), Frame(PICTURE, 1.0)]}, PromptError, "in order"),
        ([], {}, PromptError, "not empty"),
        ([1.5], {}, PromptError, "whole numbers"),
        ([1, 320], {}, InputError, "token id 320"),
        ([1, 2], {"system": "b"}, InputError, "leave them out"),
        ([1, 317, 2], {}, PromptError, "1 runs of image context tokens for 0 images"),
        ([318, 317, 319], {"images": [PICTURE, PICTURE]}, PromptError, "for 2 images"),
        ([318, 317, 317, 319], {"images": [PICTURE]}, PromptError, "2 context tokens"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    model: Model,
    backend: NumpyBackend,
    prompt: str | list[int],
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        model.generate(prompt, **changes)  # type: ignore[arg-type]
    assert backend.runs == backend.vision_calls == backend.states == []


def test_prompts_that_are_too_long_or_too_large_are_refused_at_the_call(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    short = Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_context_tokens=30)
    with pytest.raises(ContextOverflowError, match="holds 30"):
        short.stream("x" * 30)
    small = Model(backend, tokens=TOKENS, tokenizer=tokenizer, memory_limit_bytes=10**6)
    with pytest.raises(MemoryBudgetError, match="patches"):
        small.stream("a", [np.zeros((512, 512, 3), np.uint8)])
    assert backend.runs == backend.vision_calls == backend.states == []


def test_a_bundle_without_a_tokenizer_takes_token_ids_and_says_so(backend: NumpyBackend) -> None:
    model = Model(backend, tokens=None)
    assert model.generate([1, 2, 3], options=options()).usage.prompt_tokens == 3
    with pytest.raises(TokenizerError, match="no tokenizer, so a prompt must be token ids"):
        model.generate("hello")
    with pytest.raises(InputError, match="stop strings need a tokenizer"):
        model.generate([1, 2, 3], options=options(stop=("a",)))
    with pytest.raises(TokenizerError, match="token ids"):
        model.chat().send("hello")


@pytest.mark.parametrize(
    "picture", ["scene.png", Path("scene.png"), b"PNG", PICTURE, Image.fromarray(PICTURE)]
)
def test_a_picture_that_is_not_in_a_list_is_refused_with_the_cure(model: Model, picture: object) -> None:
    with pytest.raises(InputError, match=r"pass a list, such as images=\[picture\]"):
        model.generate("where?", picture)  # type: ignore[arg-type]


def test_a_batch_of_pictures_is_a_list_of_them(model: Model) -> None:
    request = model.stream("where?", np.stack([PICTURE, PICTURE])).request  # type: ignore[arg-type]
    assert len(request.images) == 2


def test_a_closed_model_answers_no_more(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    model.close()
    model.close()
    with pytest.raises(SessionClosedError, match="load the bundle again"):
        model.generate("a")


def test_a_logit_that_is_not_finite_ends_in_a_typed_error(model: Model, backend: NumpyBackend) -> None:
    stream = model.stream("hello", options=options())
    next(stream)
    backend.poison = True
    with pytest.raises(SessionClosedError, match="not finite"):
        list(stream)
    assert backend.states[0].closed
