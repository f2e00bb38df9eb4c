"""Sources that misbehave, a session that only remembers, and servers on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from neo_edge_runtime.live.feed import LiveFeed
from neo_edge_runtime.live.feed_status import FeedStatus
from neo_edge_runtime.live.source import FrameSource, TimedImage
from neo_edge_runtime.video import Frame

WAIT_S = 300.0  # what does not happen within so many seconds does not happen, however busy the machine is


def grey(value: int = 0, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    """A picture of one grey, width and height as in `size`."""
    return np.full((size[1], size[0], 3), value, np.uint8)


class OnGpu:
    """An array of 8 columns in a GPU's memory, as cupy and torch describe theirs."""

    def __init__(self, rows: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (rows, 8, 3),
            "typestr": "|u1",
            "data": (1, False),
            "version": 3,
        }


@dataclass
class Remembering:
    """A session that keeps what it is given."""

    frames: list[tuple[Image.Image, float]] = field(default_factory=list)
    wanted: Callable[[float], bool] = lambda _time_s: True
    before: Callable[[], None] = lambda: None  # called in each `add`, first

    def wants(self, time_s: float) -> bool:
        return self.wanted(time_s)

    def add(self, image: Image.Image, time_s: float) -> None:
        self.before()
        self.frames.append((image, time_s))

    @property
    def times(self) -> list[float]:
        return [time_s for _, time_s in self.frames]

    @property
    def greys(self) -> list[int]:
        return [int(np.asarray(image)[0, 0, 0]) for image, _ in self.frames]


class Scripted:
    """Each opening runs the next part of a script, the last one again and again."""

    name = "the scripted source"

    def __init__(
        self, *parts: Callable[[threading.Event], Iterator[TimedImage]], can_reopen: bool = True
    ) -> None:
        self.can_reopen = can_reopen
        self.opened = 0
        self.closed = 0
        self._parts = parts

    def frames(self, stopped: threading.Event) -> Iterator[TimedImage]:
        part = self._parts[min(self.opened, len(self._parts) - 1)]
        self.opened += 1
        try:
            yield from part(stopped)
        finally:
            self.closed += 1


class Unhurried:
    """Another source, whose next frame comes when the feed is done with the last one: none is dropped."""

    feed: LiveFeed | None = None

    def __init__(self, inner: FrameSource) -> None:
        self.name, self.can_reopen = inner.name, inner.can_reopen
        self._inner = inner

    def frames(self, stopped: threading.Event) -> Iterator[TimedImage]:
        inner = self._inner.frames(stopped)
        try:
            for frame in inner:
                yield frame
                while not stopped.wait(0.001):
                    status = self.feed.status() if self.feed else None
                    if status and status.frames_read == (
                        status.frames_handed
                        + status.frames_skipped
                        + status.frames_dropped
                        + status.frames_late
                        + status.frames_refused
                    ):
                        break
        finally:
            if isinstance(inner, Generator):
                inner.close()


def steady(
    count: int, *, start: int = 0, size: tuple[int, int] = (8, 6)
) -> Callable[[threading.Event], Iterator[TimedImage]]:
    """A part of `count` frames."""

    def part(stopped: threading.Event) -> Iterator[TimedImage]:
        for number in range(start, start + count):
            if stopped.is_set():
                return
            yield Frame(grey(number % 256, size), float(number))

    return part


def failing(error: Exception) -> Callable[[threading.Event], Iterator[TimedImage]]:
    """A part that raises."""

    def part(_stopped: threading.Event) -> Iterator[TimedImage]:
        raise error
        yield

    return part


def blocking(release: threading.Event, count: int = 0) -> Callable[[threading.Event], Iterator[TimedImage]]:
    """A part that gives frames and then hangs, whatever it is told, until the test is over."""

    def part(stopped: threading.Event) -> Iterator[TimedImage]:
        yield from steady(count)(stopped)
        release.wait(3 * WAIT_S)

    return part


def in_turn(
    *parts: Callable[[threading.Event], Iterator[TimedImage]],
) -> Callable[[threading.Event], Iterator[TimedImage]]:
    """One part behind the other, without closing the source."""

    def part(stopped: threading.Event) -> Iterator[TimedImage]:
        for each in parts:
            yield from each(stopped)

    return part


def until(feed: LiveFeed, found: Callable[[FeedStatus], bool]) -> FeedStatus:
    """Waits for a status."""
    deadline = time.monotonic() + WAIT_S
    while not found(status := feed.status()):
        assert time.monotonic() < deadline, f"{status}, {feed.events()}"
        time.sleep(0.005)
    return status


def with_longer_limits(attempt: Callable[[float], None], first_s: float) -> None:
    """What must end by a limit of time, tried with longer ones too: on a busy machine a short one ends too much."""
    for limit_s in (first_s, 10 * first_s):
        with contextlib.suppress(AssertionError):
            return attempt(limit_s)
    return attempt(100 * first_s)


def kinds(feed: LiveFeed) -> list[str]:
    return [event.kind for event in feed.events()]


@contextlib.contextmanager
def served(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A TCP port of this machine on which each connection is handed to `answer`, with an event that ends it."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection, over)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join(WAIT_S)
            assert not thread.is_alive()


def http(
    data: bytes, then: Callable[[threading.Event], None] | None = None
) -> Callable[[socket.socket, threading.Event], None]:
    """Answers with the bytes of a transport stream, and ends, or does something else first."""

    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
        if then is not None:
            then(over)

    return answer


def source(*parts: Callable[[threading.Event], Iterator[TimedImage]], can_reopen: bool = True) -> FrameSource:
    return Scripted(*parts, can_reopen=can_reopen)
