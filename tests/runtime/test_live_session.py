"""Frames and questions of one live session, also from several threads at once."""

from __future__ import annotations

import gc
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from live_sequences import full_logits, live_logits
from numpy_backend import NumpyBackend
from PIL import Image
from tiny_golden import TOKENS

from neo_edge.errors import InputError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import LiveSession, Model
from neo_edge_runtime.live.thinning import Thinning

SMALL = replace(get_protocol("edge"), min_pixels=32 * 32)
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
SHORT = SamplingOptions(max_new_tokens=3)
LONG = SamplingOptions(max_new_tokens=5000)
GUARD_S = 300.0  # nothing here waits for long; a thread that still runs then hangs


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Model:
    return Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL)


@pytest.fixture
def live(model: Model) -> Iterator[LiveSession]:
    with model.watch(every=None) as live:
        yield live


@contextmanager
def running(work: Callable[[], object]) -> Iterator[None]:
    """In another thread, which must end soon; pytest makes an error of what it raises."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(GUARD_S)
    assert not thread.is_alive(), "a thread hangs"


def test_a_question_costs_its_own_tokens_and_a_frame_is_seen_once(
    live: LiveSession, backend: NumpyBackend
) -> None:
    for number in range(3):
        live.add(PICTURE, number)
    assert backend.vision_calls == [8, 8, 8]
    cached = live.stats().cache_tokens
    for _ in range(2):
        sent = live._session.sent_tokens
        usage = live.ask("hello", options=SHORT).finish().usage
        assert usage.cached_tokens == live.stats().cache_tokens == cached
        assert live._session.sent_tokens - sent == usage.prompt_tokens - cached + usage.completion_tokens - 1
    assert backend.vision_calls == [8, 8, 8]
    assert live.stats().questions == 2


def test_an_answer_leaves_the_watched_part_of_the_cache_byte_for_byte(
    live: LiveSession, backend: NumpyBackend
) -> None:
    live.add(PICTURE, 0.0)
    state, length, before = backend.states[-1], live.stats().cache_tokens, live._session.checkpoint
    keys, values = state.keys[:, :, :, :length].copy(), state.values[:, :, :, :length].copy()
    live.ask("compare it with <image>", [PICTURE], options=SHORT).finish()
    assert live._session.checkpoint == before
    np.testing.assert_array_equal(state.keys[:, :, :, :length], keys)
    np.testing.assert_array_equal(state.values[:, :, :, :length], values)


def test_questions_can_be_asked_before_the_first_frame(live: LiveSession, model: Model) -> None:
    assert (
        live.ask("hello", options=SHORT).finish().token_ids
        == model.generate("hello", options=SHORT).token_ids
    )
    assert live.stats().lag_s is None


def test_the_protocols_system_prompt_stands_first_unless_another_is_given(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=replace(SMALL, system_prompt="think"))
    for given, shown in ((None, "think"), ("be brief", "be brief"), ("", None)):
        text = tokenizer.decode(model.watch(prompt=given)._window.ids)
        assert text == ("user" if shown is None else f"system\n{shown}\nuser")


def test_frames_that_come_while_an_answer_is_decoded_wait_and_the_newest_wins(live: LiveSession) -> None:
    live.add(PICTURE, 0.0)
    answer = live.ask("hello", options=LONG)
    next(answer)
    assert [live.add(PICTURE, time_s) for time_s in (1.0, 2.0, 3.0)] == ["waiting"] * 3
    stats = live.stats()
    assert (stats.frames_used, stats.frames_dropped, stats.frames_waiting, stats.lag_s) == (1, 2, 1, 3.0)
    answer.close()
    assert live.stats().frames_waiting == 1
    assert live.add(PICTURE, 4.0) == "used"
    stats = live.stats()
    assert (stats.frames_seen, stats.frames_used, stats.frames_dropped, stats.frames_waiting) == (5, 3, 2, 0)
    assert stats.lag_s == 0.0
    assert [frame.time_s for frame in live._window.frames] == [0.0, 3.0, 4.0]


def test_frames_that_come_quickly_do_not_hold_a_question_up(
    live: LiveSession, backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    entering, go_on = threading.Event(), threading.Event()
    encode = backend.encode_patches

    def slowly(patches: np.ndarray, patch_xy: np.ndarray) -> np.ndarray:
        entering.set()
        assert go_on.wait(GUARD_S)
        return encode(patches, patch_xy)

    monkeypatch.setattr(backend, "encode_patches", slowly)
    answers: list[int] = []
    with running(lambda: live.add(PICTURE, 0.0)):
        assert entering.wait(GUARD_S)
        with running(lambda: answers.append(live.ask("hello", options=SHORT).finish().usage.cached_tokens)):
            while not live._asking:
                time.sleep(0.001)
            assert [live.add(PICTURE, time_s) for time_s in (1.0, 2.0)] == ["waiting", "waiting"]
            go_on.set()
    assert [frame.time_s for frame in live._window.frames] == [0.0, 2.0]
    assert answers == [live.stats().cache_tokens]


def test_a_frame_that_another_thread_overtook_is_dropped_also_while_the_newer_one_enters(
    live: LiveSession, backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, read, entering, go_on = (threading.Event() for _ in range(4))

    class SlowFile:
        def read(self, _size: int = -1) -> bytes:
            reading.set()
            assert read.wait(GUARD_S)
            file = io.BytesIO()
            Image.fromarray(PICTURE).save(file, "PNG")
            return file.getvalue()

    def slowly(patches: np.ndarray, patch_xy: np.ndarray) -> np.ndarray:
        entering.set()
        assert go_on.wait(GUARD_S)
        return encode(patches, patch_xy)

    encode = backend.encode_patches
    monkeypatch.setattr(backend, "encode_patches", slowly)
    fates: list[str] = []
    answer = live.ask("hello", options=LONG)
    with running(lambda: fates.append(live.add(SlowFile(), 1.0))):
        assert reading.wait(GUARD_S)
        assert live.add(PICTURE, 2.0) == "waiting"
        answer.close()
        with running(lambda: live.ask("hello", options=SHORT).finish()):
            assert entering.wait(GUARD_S)
            read.set()
            while live.stats().frames_seen < 2:
                time.sleep(0.001)
            go_on.set()
    assert fates == ["dropped"]
    live.ask("hello", options=SHORT).finish()
    assert [frame.time_s for frame in live._window.frames] == [2.0]


def test_the_frame_that_waits_enters_before_the_next_question(live: LiveSession, model: Model) -> None:
    answer = live.ask("hello", options=LONG)
    live.add(PICTURE, 1.5)
    answer.close()
    found = live_logits(live, "where?", [], [7])
    np.testing.assert_allclose(
        found, full_logits(model, [(1.5, PICTURE)], "where?", [], [7], system=""), atol=1e-5
    )


def test_a_frame_may_be_overwritten_once_it_was_added(live: LiveSession, model: Model) -> None:
    buffer = PICTURE.copy()
    answer = live.ask("hello", options=LONG)
    live.add(buffer, 0.0)
    buffer[:] = 0
    answer.close()
    found = live_logits(live, "where?", [], [])
    np.testing.assert_allclose(
        found, full_logits(model, [(0.0, PICTURE)], "where?", [], [], system=""), atol=1e-5
    )


def test_a_new_question_ends_the_one_before_it(live: LiveSession) -> None:
    live.add(PICTURE, 0.0)
    first = live.ask("hello", options=LONG)
    next(first)
    second = live.ask("b", options=SHORT)
    assert first.completion.stop_reason == "cancelled"
    assert list(first) == []
    assert second.finish().stop_reason == "max_tokens"


@pytest.mark.parametrize("started", [False, True])
def test_an_answer_that_is_dropped_frees_the_session(live: LiveSession, started: bool) -> None:
    answer = live.ask("hello", options=LONG)
    if started:
        next(answer)
    del answer
    gc.collect()
    assert live.add(PICTURE, 0.0) == "used"


def test_five_hundred_sessions_leave_nothing_behind(model: Model, backend: NumpyBackend) -> None:
    before = threading.active_count()
    for number in range(500):
        live = model.watch(every=None)
        if number % 10 == 0:
            live.add(PICTURE, 0.0)
        answer = live.ask("hello", options=LONG)
        if number % 20 == 0:
            next(answer)
        if number % 2:
            live.close()
    del live, answer
    gc.collect()
    assert all(state.closed for state in backend.states)
    assert len(backend.states) == 500
    assert model._budget.held_bytes == model._budget.reserved_bytes == 0
    assert threading.active_count() == before


def test_a_question_of_another_thread_ends_the_answer_that_is_being_decoded(live: LiveSession) -> None:
    decoding, reasons = threading.Event(), []

    def answer() -> None:
        with live.ask("hello", options=LONG) as stream:
            for _ in stream:
                decoding.set()
        reasons.append(stream.completion.stop_reason)

    with running(answer):
        assert decoding.wait(GUARD_S)
        assert live.ask("b", options=SHORT).finish().stop_reason == "max_tokens"
    assert reasons == ["cancelled"]


def test_closing_while_another_thread_reads_an_answer_ends_it(live: LiveSession) -> None:
    decoding, reasons = threading.Event(), []

    def answer() -> None:
        stream = live.ask("hello", options=LONG)
        for _ in stream:
            decoding.set()
        reasons.append(stream.completion.stop_reason)

    with running(answer):
        assert decoding.wait(GUARD_S)
        live.close()
    assert reasons == ["cancelled"]
    assert live.stats().cache_capacity_tokens == 0


def test_closing_within_the_loop_over_an_answer_ends_the_loop(live: LiveSession) -> None:
    stream = live.ask("hello", options=LONG)
    pieces = 0
    for _ in stream:
        pieces += 1
        live.close()
        live.close()
    assert pieces == 1
    assert stream.completion.stop_reason == "cancelled"
    for refused in (lambda: live.add(PICTURE, 0.0), lambda: live.ask("b")):
        with pytest.raises(SessionClosedError, match="the live session is closed: watch again"):
            refused()
    assert live.stats().questions == 1


def test_threads_that_add_and_ask_at_once_leave_a_cache_that_is_right(model: Model) -> None:
    live = model.watch(max_frames=400, every=None)
    clock, lock = [0.0], threading.Lock()

    def camera() -> None:
        while live.stats().frames_used < 20:
            with lock:
                clock[0] += 0.25
                time_s = clock[0]
            with suppress(InputError):  # the other camera was quicker
                live.add(np.full((32, 32, 3), int(4 * time_s) % 256, np.uint8), time_s)

    def asker(seed: int) -> Callable[[], None]:
        def work() -> None:
            draw = random.Random(seed)
            for _ in range(12):
                stream = live.ask("hello", options=SamplingOptions(max_new_tokens=draw.randint(1, 6)))
                for _ in range(draw.randint(0, 7)):
                    next(stream, None)
                if draw.random() < 0.5:
                    stream.close()

        return work

    with running(camera), running(camera), running(asker(2)), running(asker(3)):
        pass
    live.ask("hello", options=SHORT).finish()  # what waited is in the cache now
    stats = live.stats()
    assert stats.frames_seen == stats.frames_used + stats.frames_dropped + stats.frames_skipped
    assert stats.frames_used == stats.frames_in_window >= 20
    times = [frame.time_s for frame in live._window.frames]
    assert times == sorted(times)
    seen = [(time_s, np.full((32, 32, 3), int(4 * time_s) % 256, np.uint8)) for time_s in times]
    np.testing.assert_allclose(
        live_logits(live, "where?", [], [7]),
        full_logits(model, seen, "where?", [], [7], system=""),
        atol=1e-4,
    )


def test_frames_are_thinned_by_their_times(model: Model) -> None:
    live = model.watch(every="0.5s")
    fates = [live.add(PICTURE, number / 30) for number in range(46)]
    assert [number for number, fate in enumerate(fates) if fate == "used"] == [0, 15, 30, 45]
    assert live.stats().frames_skipped == 42
    assert live.stats().lag_s == 0.0


def test_thinning_keeps_the_mean_rate_when_frames_come_late() -> None:
    thinning, taken = Thinning(0.5), []
    for time_s in (3.0, 3.4, 3.6, 3.9, 4.05, 4.4, 9.1, 9.4, 9.5):
        if thinning.takes(time_s):
            thinning.take(time_s)
            taken.append(time_s)
    assert taken == [3.0, 3.6, 4.05, 9.1, 9.5]


def test_stages_of_a_frame_are_timed(live: LiveSession) -> None:
    assert live.stats().mean_frame.total_ms == 0
    for number in range(3):
        live.add(PICTURE, number)
    stats = live.stats()
    for times in (stats.mean_frame, stats.last_frame):
        assert min(times.preprocess_ms, times.vision_ms, times.prefill_ms) > 0
        assert times.total_ms == pytest.approx(
            times.preprocess_ms + times.vision_ms + times.prefill_ms + times.window_ms
        )
