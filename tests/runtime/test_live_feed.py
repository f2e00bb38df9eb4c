"""A feed keeps its session at the newest frame, gives times that only grow, and ends when it is told."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_sources import (
    WAIT_S,
    OnGpu,
    Remembering,
    Scripted,
    Unhurried,
    blocking,
    failing,
    grey,
    in_turn,
    kinds,
    steady,
    until,
    with_longer_limits,
)
from numpy_backend import NumpyBackend
from PIL import Image
from tiny_golden import TOKENS
from video_files import number_of, numbered_picture, video

from neo_edge.errors import (
    ContextOverflowError,
    InputError,
    MemoryBudgetError,
    NeoEdgeError,
    SessionClosedError,
    SourceError,
)
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Model
from neo_edge_runtime.live.feed import LiveFeed
from neo_edge_runtime.live.feed_record import KEPT_EVENTS, FeedRecord
from neo_edge_runtime.live.feed_status import Reconnect
from neo_edge_runtime.live.pacing import stopped_before
from neo_edge_runtime.live.source import LiveSource, TimedImage, open_source
from neo_edge_runtime.live.source_folder import FolderSource
from neo_edge_runtime.live.timeline import RESTART_FRAMES, Timeline
from neo_edge_runtime.video import Frame


def fed(source: LiveSource, live: Remembering) -> LiveFeed:
    """A feed that lets its source wait for it, run to its end."""
    unhurried = Unhurried(open_source(source))
    feed = LiveFeed(unhurried, live)
    unhurried.feed = feed
    with feed:
        assert feed.wait(WAIT_S).state == "ended"
    return feed


def test_while_the_session_is_busy_the_newest_frame_wins() -> None:
    busy, free = threading.Event(), threading.Event()
    all_read = threading.Event()

    def wait() -> None:
        busy.set()
        assert free.wait(WAIT_S)

    def frames() -> Iterator[Frame]:
        yield Frame(grey(0))
        assert busy.wait(WAIT_S)
        yield from (Frame(grey(number)) for number in range(1, 10))
        all_read.set()

    live = Remembering(before=wait)
    with LiveFeed(frames(), live) as feed:
        assert all_read.wait(WAIT_S)
        free.set()
        status = feed.wait(WAIT_S)
    assert live.greys == [0, 9]
    assert (status.frames_read, status.frames_handed, status.frames_dropped) == (10, 2, 8)


def test_a_frame_that_the_session_does_not_want_is_not_decoded() -> None:
    class Undecodable:
        time_s = 1.0

        @property
        def image(self) -> np.ndarray:
            raise AssertionError("nobody wants it")

    class Mixed:
        name, can_reopen = "the mixed source", False

        def frames(self, stopped: threading.Event) -> Iterator[TimedImage]:
            assert not stopped.is_set()
            yield from (Frame(grey(1), 0.0), Undecodable(), Frame(grey(2), 2.0))

    live = Remembering(wanted=lambda time_s: time_s != 1.0)
    status = fed(Mixed(), live).status()
    assert live.greys == [1, 2]
    assert (status.frames_read, status.frames_handed, status.frames_skipped) == (3, 2, 1)


def test_an_array_that_is_written_over_was_copied_before() -> None:
    def frames() -> Iterator[np.ndarray]:
        buffer = grey()
        for number in range(4):
            buffer[:] = number
            yield buffer
        buffer[:] = 99

    live = Remembering()
    fed(frames(), live)
    assert live.greys == [0, 1, 2, 3]


def test_times_begin_at_the_start_and_go_on_from_there() -> None:
    live = Remembering()
    feed = LiveFeed([(grey(), 70.0), (grey(), 70.01)], live, start_s=12.0)
    with feed:
        feed.wait(WAIT_S)
    assert live.times[0] == 12.0
    assert live.times[1:] in ([], [pytest.approx(12.01)])


def test_a_list_is_played_at_its_rate_and_a_file_at_the_speed_of_its_times(tmp_path: Path) -> None:
    pictures = [numbered_picture(number) for number in range(4)]
    (tmp_path / "clip.mp4").write_bytes(video(pictures, rate=20))
    for source in (open_source(pictures, rate_hz=20), open_source(tmp_path / "clip.mp4")):
        live = Remembering()
        began = time.monotonic()
        fed(source, live)
        assert time.monotonic() - began >= 0.15
        assert live.times == pytest.approx([0, 0.05, 0.1, 0.15])
        assert [number_of(np.asarray(image)) for image, _ in live.frames] == [0, 1, 2, 3]


def test_a_folder_with_a_rate_gives_all_of_it_by_number(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        Image.fromarray(grey(number)).save(tmp_path / f"frame-{number}.png")
    live = Remembering()
    fed(open_source(tmp_path, rate_hz=100), live)
    assert live.greys == [1, 9, 10]


def test_a_folder_gives_what_is_put_there_and_what_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    look = FolderSource._look

    def looking(source: FolderSource) -> object:
        found = look(source)
        looked.set()
        return found

    def put(value: int, size: tuple[int, int], name: str) -> None:
        Image.fromarray(grey(value, size)).save(tmp_path / "whole.part", "PNG")
        (tmp_path / "whole.part").rename(tmp_path / name)

    monkeypatch.setattr(FolderSource, "_look", looking)
    put(1, (8, 6), "old.png")
    live = Remembering()
    with LiveFeed(tmp_path, live, stall_s=WAIT_S) as feed:
        assert looked.wait(WAIT_S)
        (tmp_path / "notes.txt").write_text("no picture")
        put(2, (8, 6), "new.png")
        until(feed, lambda status: status.frames_handed == 1)
        put(3, (30, 20), "old.png")
        until(feed, lambda status: status.frames_handed == 2)
    assert live.greys == [2, 3]
    assert feed.status().size == (30, 20)
    assert kinds(feed) == ["opened", "size_changed"]


def test_a_source_that_stalls_is_opened_again_beside_the_thread_that_blocks() -> None:
    def attempt(stall_s: float) -> None:
        release = threading.Event()
        source = Scripted(blocking(release, 1), steady(3))
        live = Remembering()
        feed = LiveFeed(source, live, stall_s=stall_s, reconnect=Reconnect(first_wait_s=0.01))
        try:
            feed.start()
            status = feed.wait(WAIT_S)
            assert (status.state, status.reconnects) == ("ended", 1)
            assert kinds(feed) == ["opened", "stalled", "lost", "resumed", "ended"]
            assert live.times == sorted(set(live.times))
        finally:
            release.set()
            feed.stop(WAIT_S)
        assert feed.status().blocked_readers == 0
        assert source.closed == source.opened == 2

    with_longer_limits(attempt, 0.1)


@pytest.mark.parametrize(
    "state", ["new", "opening", "running", "stalled", "waiting", "ended", "failed", "stopped"]
)
def test_a_stop_ends_every_state_and_may_come_twice(state: str) -> None:
    release = threading.Event()
    parts = {
        "opening": (blocking(release),),
        "stalled": (blocking(release),),
        "running": (steady(10**9),),
    }.get(state, (steady(1),))
    live = Remembering()
    source = Scripted(*parts)
    feed = LiveFeed(
        iter([]) if state == "failed" else source,
        live,
        stall_s=0.05 if state == "stalled" else WAIT_S,
    )
    try:
        if state == "stopped":
            feed.stop()
        elif state == "waiting":
            dying = Scripted(in_turn(steady(1), failing(SourceError("the cable is out"))))
            long = Reconnect(first_wait_s=3 * WAIT_S, longest_wait_s=3 * WAIT_S)
            feed = LiveFeed(dying, live, reconnect=long)
            feed.start()
        elif state != "new":
            feed.start()
        until(feed, lambda status: status.state == state)
        blocked = state in ("opening", "stalled")
        began = time.monotonic()
        for _ in range(2):
            feed.stop(0.3 if blocked else WAIT_S)
        assert time.monotonic() - began < WAIT_S
        status = feed.wait(WAIT_S)
        assert status.state == (state if state in ("ended", "failed") else "stopped")
        assert status.blocked_readers == blocked
        handed = len(live.frames)
        assert feed.wait(0).state == status.state
        assert len(live.frames) == handed
        with pytest.raises(SessionClosedError, match="make another LiveFeed"):
            feed.start()
    finally:
        release.set()


def test_a_source_may_stop_its_own_feed() -> None:
    feeds: list[LiveFeed] = []

    def frames() -> Iterator[Frame]:
        yield Frame(grey())
        feeds[0].stop()
        yield Frame(grey())

    live = Remembering()
    feeds.append(LiveFeed(frames(), live))
    with feeds[0] as feed:
        assert feed.wait(WAIT_S).state == "stopped"
    assert len(live.frames) <= 1


def test_a_session_that_is_closed_ends_the_feed() -> None:
    def closed() -> None:
        raise SessionClosedError("the session is closed")

    with LiveFeed((Frame(grey()) for _ in itertools.count()), Remembering(before=closed)) as feed:
        assert feed.wait(WAIT_S).state == "stopped"
    assert feed.status().error is None
    assert kinds(feed) == ["session_closed"]
    assert "the session is closed" in feed.events()[0].message


def test_what_the_session_raises_otherwise_ends_the_feed_and_is_kept() -> None:
    def broken() -> None:
        raise ArithmeticError("the model is broken")

    with LiveFeed([(grey(), 0.0)], Remembering(before=broken)) as feed:
        status = feed.wait(WAIT_S)
    assert (status.state, str(status.error)) == ("failed", "the model is broken")


def test_a_frame_that_there_is_no_room_for_is_left_out_and_the_next_one_is_handed_on() -> None:
    errors: list[NeoEdgeError] = [MemoryBudgetError("no memory"), ContextOverflowError("no positions")]

    def scarce() -> None:
        if errors:
            raise errors.pop(0)

    live = Remembering(before=scarce)
    status = fed((Frame(grey(number)) for number in range(3)), live).status()
    assert live.greys == [2]
    assert (status.frames_refused, status.frames_handed) == (2, 1)


def test_events_have_numbers_that_go_on_when_old_ones_are_forgotten() -> None:
    record = FeedRecord("the camera")
    for number in range(KEPT_EVENTS + 3):
        record.say("resumed", str(number))
    numbers = [event.number for event in record.events()]
    assert numbers == list(range(4, KEPT_EVENTS + 4))


def test_late_frames_are_left_out_until_the_clock_has_begun_anew() -> None:
    timeline = Timeline(5.0)
    assert [timeline.place(time_s) for time_s in (100, 101, 100.5)] == [5, 6, None]
    placed = [timeline.place(float(time_s)) for time_s in range(RESTART_FRAMES + 1)]
    assert placed == [None] * (RESTART_FRAMES - 1) + [7, 8]
    assert timeline.restarts == 1
    timeline.resume(3.0)
    again = timeline.place(0.0)
    assert again is not None
    assert 8 < again < 8.001
    timeline.resume(20.0)
    assert timeline.place(999.0) == 20


def test_a_moment_that_has_passed_or_is_no_number_is_not_waited_for() -> None:
    stopped = threading.Event()
    assert not stopped_before(float("nan"), stopped)
    assert not stopped_before(0.0, stopped)
    stopped.set()
    assert stopped_before(float("inf"), stopped)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stall_s": 0.0}, "stall_s is 0.0"),
        ({"start_s": -1.0}, "start_s -1.0"),
        ({"start_s": float("nan")}, "start_s nan"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LiveFeed([], Remembering(), **arguments)  # type: ignore[arg-type]


def test_a_policy_and_a_source_refuse_what_does_not_fit_them(tmp_path: Path) -> None:
    for wrong in (
        {"attempts": 0},
        {"first_wait_s": 0.0},
        {"first_wait_s": 20.0},
        {"longest_wait_s": float("inf")},
    ):
        with pytest.raises(InputError, match="at least 1|must be above 0"):
            Reconnect(**wrong)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    for source, arguments, words in (
        ("/dev/video0", {"rate_hz": 5.0}, "leave it out"),
        (tmp_path / "clip.mp4", {"rate_hz": 5.0}, "leave it out"),
        (tmp_path / "clip.mp4", {"options": {"framerate": "5"}}, "options are for cameras"),
        ([], {"options": {"framerate": "5"}}, "options are for cameras"),
        (iter([]), {"rate_hz": 5.0}, "sets its own pace"),
        ([], {"rate_hz": 0.0}, "must be above 0"),
        ("rtsp://camera", {"open_timeout_s": 0.0}, "a number of seconds above 0"),
    ):
        with pytest.raises(InputError, match=words):
            open_source(source, **arguments)


def test_a_live_session_gets_its_frames_and_skips_those_between(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    small = replace(get_protocol("edge"), min_pixels=32 * 32)
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=small)
    with model.watch(every="1s") as live:
        unhurried = Unhurried(open_source(Frame(grey(number, (32, 32)), number / 4) for number in range(9)))
        feed = LiveFeed(unhurried, live)
        unhurried.feed = feed
        with feed:
            status = feed.wait(WAIT_S)
        stats = live.stats()
        assert (status.frames_handed, status.frames_skipped) == (3, 6)
        assert (stats.frames_seen, stats.frames_used, stats.frames_skipped) == (9, 3, 6)
        assert stats.lag_s == 0.0
        assert live.wants(3.0)
        assert not live.wants(2.5)
        assert live.stats().lag_s == 0.5
    with pytest.raises(SessionClosedError):
        live.wants(9.0)
    model.close()


def test_a_frame_on_a_gpu_is_refused_with_a_cure_where_the_model_runs_elsewhere(
    backend: NumpyBackend, tokenizer: Tokenizer
) -> None:
    model = Model(backend, tokens=TOKENS, tokenizer=tokenizer)
    with model.watch() as live, LiveFeed(iter([OnGpu(8)]), live) as feed:
        assert feed.wait(WAIT_S).frames_refused == 1
        assert "lies on a GPU" in feed.events()[0].message
        assert "copy it to the host, or load the model with backend='tensorrt'" in feed.events()[0].message
    model.close()
