"""What live sessions refuse, and what is left when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from live_sequences import full_logits, live_logits
from numpy_backend import NumpyBackend
from tiny_golden import GOLDEN, TOKENS

from neo_edge.errors import (
    BackendError,
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
from neo_edge_runtime import LiveSession, Model
from neo_edge_runtime.live.thinning import parse_every

SMALL = replace(get_protocol("edge"), min_pixels=32 * 32)
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
SHORT = SamplingOptions(max_new_tokens=3)


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Model:
    return Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)


@pytest.fixture
def live(model: Model) -> Iterator[LiveSession]:
    with model.watch(every=None) as live:
        yield live


@pytest.mark.parametrize(
    ("every", "seconds"),
    [("0.5s", 0.5), ("2 s", 2.0), ("40ms", 0.04), ("0.5", 0.5), (1, 1.0), (0, 0.0), (None, 0.0)],
)
def test_every_is_read(every: str | float | None, seconds: float) -> None:
    assert parse_every(every) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": "soon"}, "every is 'soon'; give seconds from 0 on"),
        ({"every": -1.0}, "every is -1.0"),
        ({"every": float("nan")}, "every is nan"),
        ({"every": True}, "every is True"),
        ({"max_frames": 0}, "max_frames is 0; it must be a whole number from 1 to 65536"),
        ({"max_frames": 2.0}, "max_frames is 2.0"),
        ({"max_frames": True}, "max_frames is True"),
        ({"policy": "forget"}, "policy is 'forget'; it must be one of drop, recompute"),
    ],
)
def test_watching_refuses_with_a_cure(model: Model, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.watch(**arguments)  # type: ignore[arg-type]


def test_watching_needs_a_tokenizer_and_an_open_model(backend: NumpyBackend, model: Model) -> None:
    with pytest.raises(TokenizerError, match="the bundle has no tokenizer"):
        Model(backend, tokens=TOKENS).watch()
    model.close()
    with pytest.raises(SessionClosedError, match="the model is closed"):
        model.watch()


@pytest.mark.parametrize("time_s", [-0.1, float("nan"), float("inf"), 1e9, 10**400, "1", None, True])
def test_a_frame_needs_a_time(live: LiveSession, time_s: object) -> None:
    with pytest.raises(InputError, match="a frame needs its time in seconds, from 0 on"):
        live.add(PICTURE, time_s)  # type: ignore[arg-type]
    assert live.stats().frames_seen == 0


def test_what_is_refused_changes_nothing(live: LiveSession) -> None:
    live.add(PICTURE, 5.0)
    before = live.stats()
    with pytest.raises(InputError, match="a frame of 4 s comes after one of 5 s"):
        live.add(PICTURE, 4.0)
    with pytest.raises(ImageError):
        live.add(b"no picture", 6.0)
    with pytest.raises(PromptError, match="2 <image> places for 1 images"):
        live.ask("<image> or <image>?", [PICTURE])
    with pytest.raises(InputError, match="images is one ndarray"):
        live.ask("what?", PICTURE)  # type: ignore[arg-type]
    assert live.stats() == before
    assert live.add(PICTURE, 5.5) == "used"


def test_a_question_that_does_not_fit_frees_the_session(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL, max_context_tokens=120)
    live = model.watch(every=None)
    live.add(PICTURE, 0.0)
    with pytest.raises(ContextOverflowError, match="this session holds 120"):
        live.ask("x" * 200)
    assert live.add(PICTURE, 1.0) == "used"
    assert live.ask("a", options=SHORT).finish().stop_reason == "max_tokens"


def test_a_frame_that_does_not_fit_is_dropped_and_said(backend: NumpyBackend, tokenizer: Tokenizer) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL, memory_limit_bytes=3_000_000)
    live = model.watch(every=None)
    live.add(PICTURE, 0.0)
    with pytest.raises(MemoryBudgetError, match="memory_limit_bytes allows"):
        live.add(np.zeros((640, 640, 3), np.uint8), 1.0)
    stats = live.stats()
    assert (stats.frames_used, stats.frames_dropped, stats.frames_in_window) == (1, 1, 1)
    assert live.add(PICTURE, 2.0) == "used"
    assert live.ask("a", options=SHORT).finish().stop_reason == "max_tokens"


def test_a_run_that_fails_leaves_what_was_watched(
    live: LiveSession, model: Model, backend: NumpyBackend
) -> None:
    live.add(PICTURE, 0.0)
    backend.failing_token = ord("9")  # of the next frame's time
    with pytest.raises(BackendError, match="as the test wanted"):
        live.add(PICTURE, 9.0)
    with pytest.raises(BackendError, match="as the test wanted"):
        live.ask("9?").finish()
    backend.failing_token = None
    np.testing.assert_allclose(
        live_logits(live, "where?", [], []),
        full_logits(model, [(0.0, PICTURE)], "where?", [], [], system=""),
        atol=1e-5,
    )


def test_a_half_that_cannot_be_prefilled_again_leaves_the_start_for_the_next_frame(
    model: Model, backend: NumpyBackend
) -> None:
    live = model.watch(max_frames=2, every=None, policy="recompute", prompt="be brief")
    for time_s in (0.0, 9.0):
        live.add(PICTURE, time_s)
    backend.failing_token = ord("9")  # of the frame that stays
    with pytest.raises(BackendError, match="as the test wanted"):
        live.add(PICTURE, 10.0)
    backend.failing_token = None
    assert live.stats().frames_in_window == 0
    live.add(PICTURE, 11.0)
    np.testing.assert_allclose(
        live_logits(live, "where?", [], []),
        full_logits(model, [(11.0, PICTURE)], "where?", [], [], system="be brief"),
        atol=1e-5,
    )


def test_a_logit_that_is_not_finite_closes_the_session(live: LiveSession, backend: NumpyBackend) -> None:
    live.add(PICTURE, 0.0)
    backend.poison = True
    with pytest.raises(SessionClosedError, match="not finite"):
        live.ask("where?").finish()
    backend.poison = False
    with pytest.raises(SessionClosedError, match="the session is closed"):
        live.add(PICTURE, 1.0)
    live.close()


def test_a_model_that_is_closed_meanwhile_is_said(tokenizer: Tokenizer) -> None:
    model = Model(NumpyBackend(GOLDEN), tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)
    live = model.watch(every=None)
    live.add(PICTURE, 0.0)
    model.close()
    live.close()
    with pytest.raises(SessionClosedError, match="the live session is closed"):
        live.add(PICTURE, 1.0)
