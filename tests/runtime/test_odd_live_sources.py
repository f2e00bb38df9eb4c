"""Live sources that are broken, hostile or only unusual: what is documented happens, in time, and a stop stops."""

from __future__ import annotations

import io
import itertools
import math
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_sources import (
    WAIT_S,
    OnGpu,
    Remembering,
    Unhurried,
    blocking,
    failing,
    grey,
    http,
    in_turn,
    kinds,
    served,
    source,
    steady,
    until,
    with_longer_limits,
)
from PIL import Image
from video_files import audio_only, number_of, numbered_picture, video

from neo_edge.errors import InputError, NeoEdgeError, SourceError, VideoError
from neo_edge_runtime.live.feed import LiveFeed
from neo_edge_runtime.live.feed_status import FeedState, Reconnect
from neo_edge_runtime.live.source import open_source
from neo_edge_runtime.video import Frame
from neo_edge_runtime.video_limits import VideoLimits

PICTURES = [numbered_picture(number) for number in range(12)]
QUICK = Reconnect(attempts=2, first_wait_s=0.01, longest_wait_s=0.02)


@dataclass(frozen=True)
class Case:
    """A source and what becomes of it."""

    make: Callable[[Path, threading.Event], Any]
    state: FeedState
    words: str = ""  # of the error, or of the last event
    error: type[Exception] | None = None
    handed: int | None = None  # frames that reach the session; None: any number
    stall_s: float = WAIT_S
    reconnect: Reconnect | None = None
    late: int | None = 0  # None: any number
    refused: int = 0
    kinds: tuple[str, ...] | None = None  # of all events


def saved(folder: Path, data: bytes) -> Path:
    (folder / "clip.mp4").write_bytes(data)
    return folder / "clip.mp4"


def timed(times_s: Iterable[float]) -> Iterator[Frame]:
    """A live iterator."""
    for number, time_s in enumerate(times_s):
        yield Frame(grey(number % 256), time_s)


def endless(stopped: threading.Event) -> Iterator[Frame]:
    for number in itertools.count():
        if stopped.is_set():
            return
        yield Frame(grey(number % 256))


def exiting() -> Iterator[np.ndarray]:
    yield grey()
    raise SystemExit(3)


def sizes(_folder: Path, _release: threading.Event) -> Any:
    return source(in_turn(steady(2), steady(2, start=2, size=(16, 10)), steady(2, start=4)))


def folder_of(
    *files: tuple[str, bytes | None], rate_hz: float = 50.0
) -> Callable[[Path, threading.Event], Any]:
    def make(folder: Path, _release: threading.Event) -> Any:
        for name, data in files:
            buffer = io.BytesIO()
            Image.new("RGB", (8, 6)).save(buffer, "PNG")
            (folder / name).write_bytes(buffer.getvalue() if data is None else data)
        return open_source(folder, rate_hz=rate_hz)

    return make


def file(make: Callable[[], bytes], **options: Any) -> Callable[[Path, threading.Event], Any]:
    return lambda folder, _release: open_source(saved(folder, make()), **options)


def pictures(make: Callable[[], Any]) -> Callable[[Path, threading.Event], Any]:
    return lambda _folder, _release: make()


CASES = {
    # Iterators and lists of a program
    "blocks before its first frame": Case(
        lambda _folder, release: source(blocking(release)), "stalled", "given no frame for 0.2 s", SourceError,
        handed=0, stall_s=0.2,
    ),
    "blocks after three frames": Case(
        lambda _folder, release: source(blocking(release, 3)), "stalled", "no usable frame for 0.2 s", SourceError,
        handed=3, stall_s=0.2,
    ),
    "blocks at each opening": Case(
        lambda _folder, release: source(blocking(release)), "failed", "given no frame", SourceError,
        handed=0, stall_s=0.05, reconnect=QUICK, kinds=("stalled", "lost", "stalled", "lost", "stalled", "failed"),
    ),
    "blocks at each opening, for ever": Case(
        lambda _folder, release: source(blocking(release)), "failed", "given no frame", SourceError,
        handed=0, stall_s=0.05, reconnect=Reconnect(None, 0.01, 0.01),
        kinds=("stalled", "lost") * 3 + ("stalled", "failed"),
    ),
    "no frames": Case(pictures(lambda: iter(())), "failed", "ended without a frame", SourceError, handed=0),
    "an empty list": Case(pictures(list), "failed", "ended without a frame", SourceError, handed=0),
    "an empty array": Case(
        pictures(lambda: open_source(np.zeros((0, 6, 8, 3), np.uint8), rate_hz=10)), "failed",
        "ended without a frame", SourceError, handed=0,
    ),
    "dies half-way": Case(
        lambda _folder, _release: source(in_turn(steady(3), failing(SourceError("the cable is out")))), "failed",
        "the cable is out", SourceError, handed=3, kinds=("opened", "failed"),
    ),
    "raises what nobody foresaw": Case(
        lambda _folder, _release: source(in_turn(steady(1), failing(ZeroDivisionError("oops")))), "failed", "oops",
        ZeroDivisionError, handed=1, reconnect=QUICK,
    ),
    "ends its thread": Case(pictures(exiting), "failed", "ended its own thread, by SystemExit", SourceError),
    "dies at each opening": Case(
        lambda _folder, _release: source(failing(SourceError("nobody there"))), "failed", "nobody there", SourceError,
        handed=0, reconnect=QUICK, kinds=("lost", "lost", "failed"),
    ),
    "dies and comes back": Case(
        lambda _folder, _release: source(in_turn(steady(2), failing(SourceError("lost"))), steady(2)), "ended",
        "has ended", handed=4, reconnect=QUICK, kinds=("opened", "lost", "resumed", "ended"),
    ),
    "without an end": Case(
        lambda _folder, _release: source(endless), "running", "gives frames of 8x6", handed=None,
    ),
    "a size that changes twice": Case(
        sizes, "ended", "has ended", handed=6, kinds=("opened", "size_changed", "size_changed", "ended"),
    ),
    "a late frame": Case(pictures(lambda: timed([0, 1, 0.5, 2])), "ended", handed=3, late=1),
    "one time again and again": Case(
        pictures(lambda: timed(itertools.repeat(7.0))), "stalled", "came in all", SourceError, handed=1,
        stall_s=0.2, late=None,
    ),
    "a clock that begins anew": Case(
        pictures(lambda: timed([10, 11, 0, 1, 2, 3, 4, 5])), "ended", handed=4, late=4,
        kinds=("opened", "clock_restarted", "ended"),
    ),
    "times that are no numbers": Case(
        pictures(lambda: timed([math.nan, 0, math.inf, 1, -math.inf])), "ended", handed=2, late=3
    ),
    "times since 1970": Case(pictures(lambda: timed([1.7e9, 1.7e9 + 1])), "ended", handed=2),
    "a list whose second time is far away": Case(
        pictures(lambda: [(grey(), 0.0), (grey(), 1e12)]), "stalled", "no usable frame", SourceError, handed=1,
        stall_s=0.2,
    ),
    "a list without times": Case(
        pictures(lambda: [grey()]), "failed", "has no time: give", InputError, handed=0
    ),
    "an array of another shape in between": Case(
        pictures(lambda: iter([grey(), np.zeros((2, 2, 7), np.uint8), grey()])), "ended", handed=2, refused=1,
        kinds=("opened", "frame_refused", "ended"),
    ),
    "nothing but what is no picture": Case(
        pictures(lambda: iter([b"no picture"] * 5)), "ended", handed=0, refused=5,
        kinds=("frame_refused", "ended"),
    ),
    "a tuple of three": Case(
        pictures(lambda: iter([(1, 2, 3)])), "failed", "found a tuple of int, int, int", InputError
    ),
    "arrays in a GPU": Case(pictures(lambda: iter([OnGpu(6), OnGpu(8)])), "ended", handed=2,
        kinds=("opened", "size_changed", "ended"),
    ),
    "arrays in a GPU that are no pictures": Case(pictures(lambda: iter([OnGpu(0)])), "ended", handed=0, refused=1),
    # Video files
    "a file without rate and times": Case(
        file(lambda: video(PICTURES, codec="mpeg4", container="m4v")), "ended", handed=12
    ),
    "a file that ends in its middle": Case(
        file(lambda: video(PICTURES, container="matroska", codec="mpeg4")[:4000]), "ended"
    ),
    "a file in which a frame is in the year 9000": Case(
        file(lambda: video(PICTURES[:2], container="matroska", pts=[0, 10**12], time_base=Fraction(1, 1000))),
        "stalled", "no usable frame", SourceError, handed=1, stall_s=0.5,
    ),
    "a file of two recordings": Case(
        file(lambda: b"".join(video(PICTURES[:6], container="mpegts") for _ in range(2))), "ended",
    ),
    "sound only": Case(file(audio_only), "failed", "has no video", VideoError, handed=0, reconnect=QUICK),
    "noise": Case(
        file(lambda: np.random.default_rng(0).bytes(99_999)), "failed", "cannot be read", VideoError, handed=0
    ),
    "larger frames than allowed": Case(
        file(lambda: video(PICTURES), limits=VideoLimits(max_pixels=6143)), "failed", "6144 pixels; at most 6143",
        VideoError, handed=0,
    ),
    # Folders
    "a folder of pictures, text and half a picture": Case(
        folder_of(("1.png", None), ("2.png", b"\x89PNG\r\n"), ("3.txt", b"text"), (".4.png", None), ("10.png", None)),
        "ended", handed=2, refused=1,
    ),
    "an empty folder": Case(folder_of(), "failed", "ended without a frame", SourceError, handed=0),
    "a folder that is deleted": Case(
        lambda folder, _release: gone(folder), "failed", "cannot be read", SourceError, handed=0, reconnect=QUICK
    ),
    # Devices and addresses
    "a camera that is not there": Case(
        pictures(lambda: "/dev/video99"), "failed", "/dev/video99 cannot be opened.*see that it is a Video4Linux",
        SourceError, handed=0, reconnect=QUICK,
    ),
    "a device that is no camera": Case(pictures(lambda: "/dev/zero"), "failed", "cannot be opened", SourceError),
    "nobody at the port": Case(
        pictures(lambda: "rtsp://me:secret@127.0.0.1:9/cam?key=1"), "failed",
        "^rtsp://127.0.0.1:9/cam cannot be opened", SourceError, handed=0, reconnect=QUICK,
    ),
}  # fmt: skip


def gone(folder: Path) -> Any:
    (folder / "pictures").mkdir()
    opened = open_source(folder / "pictures")
    (folder / "pictures").rmdir()
    return opened


@pytest.mark.parametrize("name", CASES)
def test_an_odd_source_does_what_is_documented_and_stops(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    release = threading.Event()
    live = Remembering()
    try:
        unhurried = Unhurried(open_source(case.make(tmp_path, release)))
        feed = LiveFeed(unhurried, live, stall_s=case.stall_s, reconnect=case.reconnect)
        unhurried.feed = feed
        with feed:
            # On a busy machine a source seems to stall before it does.
            enough = case.handed or 0
            status = until(feed, lambda now: now.state == case.state and now.frames_handed >= enough)
            last = feed.events()[-1]
            assert last.message
            if case.words:
                assert re.search(case.words, last.message), last.message
            if case.error is not None:
                assert isinstance(last.error, case.error)
                assert isinstance(last.error, NeoEdgeError) or name == "raises what nobody foresaw"
            if case.state == "failed":
                assert status.error is last.error
            feed.stop(0.2 if "given no frame" in case.words or case.state == "stalled" else WAIT_S)  # blocked
            status = feed.wait(WAIT_S)
        assert status.state == ("stopped" if case.state in ("running", "stalled") else case.state)
        assert len(live.frames) == status.frames_handed
        assert live.times == sorted(set(live.times))
        assert status.frames_refused == case.refused
        assert case.late is None or status.frames_late == case.late
        if case.handed is not None:
            assert status.frames_handed == case.handed
        if case.kinds is not None:
            assert tuple(kinds(feed)) == case.kinds
        assert status.frames_read == (
            status.frames_handed + status.frames_dropped + status.frames_late + status.frames_refused
        )
    finally:
        release.set()


REFUSED = {
    "a path that is not there": ("no-such-file.mp4", SourceError, "give a path that exists"),
    "an empty name": ("", SourceError, "give a path that exists"),
    "NUL in the path": ("a\0b", SourceError, "give a path that exists"),
    "a file by its address": ("file:///etc/hostname", SourceError, "file:// is no kind of address"),
    "FFmpeg's own protocols": ("concat:/etc/hostname", SourceError, "give a path that exists"),
    "a list of files of FFmpeg": ("subfile://x", SourceError, "subfile:// is no kind of address"),
    "a number": (5, InputError, "this one is int"),
    "None": (None, InputError, "this one is NoneType"),
    "bytes": (b"GIF89a", InputError, "this one is bytes"),
    "one picture": (grey(), InputError, "this one is ndarray"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_source_is_refused_with_a_cure(name: str) -> None:
    source, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        open_source(source)  # type: ignore[arg-type]


STREAM = video(PICTURES, codec="mpeg2video", container="mpegts", options={})


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"


def wait_for_the_end(over: threading.Event) -> None:
    over.wait(WAIT_S)


@pytest.mark.parametrize(
    ("scheme", "answer", "words", "handed"),
    [
        ("rtsp", lambda _connection, over: wait_for_the_end(over), "cannot be opened|does not answer within {}", 0),
        ("http", lambda _connection, over: wait_for_the_end(over), "does not answer within {}", 0),
        ("tcp", lambda _connection, over: wait_for_the_end(over), "does not answer within {}", 0),
        ("http", lambda connection, _over: connection.close(), "cannot be opened", 0),
        ("http", http(b""), "cannot be opened", 0),
        ("http", http(PLAYLIST), "cannot be opened|has no video|broken off|ended", 0),
        ("http", http(STREAM), "has ended: see that its sender runs|has broken off", 1),
        ("http", http(STREAM, wait_for_the_end), "has given nothing for {}", 1),
    ],
    ids=[
        "RTSP that does not answer", "HTTP that does not answer", "TCP that gives nothing", "hangs up", "gives nothing",
        "a playlist that names a file", "breaks off", "stops in its middle",
    ],
)  # fmt: skip
def test_an_address_that_fails_is_said_in_time(scheme: str, answer: Any, words: str, handed: int) -> None:
    def attempt(limit_s: float) -> None:
        live = Remembering()
        with served(answer) as port:
            address = f"{scheme}://127.0.0.1:{port}/cam"
            opened = open_source(address, open_timeout_s=limit_s, read_timeout_s=limit_s)
            with LiveFeed(opened, live, stall_s=WAIT_S) as feed:
                status = feed.wait(WAIT_S)
        assert status.state == "failed"
        assert isinstance(status.error, SourceError)
        assert re.search(words.format(f"{limit_s:g} s"), str(status.error))
        assert (status.frames_handed > 0) == bool(handed)

    with_longer_limits(attempt, 0.3)


def test_an_address_that_breaks_off_is_opened_again() -> None:
    live = Remembering()
    with served(http(STREAM)) as port:
        opened = open_source(f"http://127.0.0.1:{port}/cam", open_timeout_s=WAIT_S, read_timeout_s=WAIT_S)
        with LiveFeed(opened, live, reconnect=Reconnect(first_wait_s=0.01)) as feed:
            status = until(feed, lambda status: status.reconnects >= 2 and status.state == "running")
    assert status.error is None
    assert live.times == sorted(set(live.times))
    assert kinds(feed)[:3] == ["opened", "lost", "resumed"]


def test_an_rtsp_camera_is_watched_until_it_goes() -> None:
    live = Remembering()
    publisher = Path(__file__).parent / "rtsp_publisher.py"
    # FFmpeg listens here, and the camera comes to it; what is said from then on is what any RTSP camera says.
    options = {"rtsp_flags": "listen", "listen_timeout": f"{WAIT_S:.0f}"}
    with socket.socket() as port:
        # Linux lets FFmpeg listen at a port that is only bound, and meanwhile gives it to nobody else.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))
        address = f"rtsp://127.0.0.1:{port.getsockname()[1]}/cam"
        opened = open_source(address, options=options, open_timeout_s=WAIT_S, read_timeout_s=WAIT_S)
        feed = LiveFeed(opened, live, stall_s=WAIT_S)
        with feed, subprocess.Popen([sys.executable, publisher, address]) as camera:
            try:
                status = feed.wait(2 * WAIT_S)
            finally:
                camera.kill()
    numbers = [number_of(np.asarray(image)) for image, _ in live.frames]
    assert status.frames_read > 1
    assert numbers == sorted(set(numbers))
    assert live.times == sorted(set(live.times))
    assert status.state == "failed"
    assert "see that its sender runs" in str(status.error) or "has broken off" in str(status.error)


def test_five_hundred_feeds_leave_no_thread_behind() -> None:
    before = set(threading.enumerate())
    for number in range(500):
        feed = LiveFeed(source(endless), Remembering())
        if number % 3:  # some never start
            feed.start()
            if number % 3 == 2:
                until(feed, lambda status: status.frames_read > 0)
        assert feed.stop(WAIT_S).state == "stopped"
    assert set(threading.enumerate()) <= before
