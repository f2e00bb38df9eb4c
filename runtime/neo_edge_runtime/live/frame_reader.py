"""The thread that waits in a source, and the one place in which its newest frame lies."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType

from neo_edge.errors import SourceError
from neo_edge_runtime.live.source import FrameSource, TimedImage


@dataclass(frozen=True, eq=False)
class Arrived:
    """A frame and when it came."""

    frame: TimedImage
    at_s: float  # of the monotonic clock


@dataclass(frozen=True)
class Finished:
    """The source gives no more frames."""

    error: Exception | None  # None: it ended by itself


class ErrorTrap:
    """Keeps whatever error ends the block: a source is somebody else's program, and may raise anything."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> ErrorTrap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        elif error is not None:
            self.error = SourceError(
                f"it ended its own thread, by {type(error).__name__}: have it raise an error instead"
            )
        return error is not None


class FrameReader:
    """Reads a source as fast as it gives, so that nothing waits in its own buffers; the newest frame wins.

    A call into a driver cannot be interrupted. So the thread is a daemon, and is left behind where it does not
    come back; what it gives later is not seen by anybody.
    """

    def __init__(self, source: FrameSource) -> None:
        """Starts reading."""
        self._source = source
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._newest: Arrived | None = None
        self._finished: Finished | None = None
        self._read = self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="live-source", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> tuple[int, int]:
        """Frames that the source gave, and those of them that a newer one has replaced."""
        with self._changed:
            return self._read, self._dropped

    @property
    def alive(self) -> bool:
        """Whether the thread is still in the source."""
        return self._thread.is_alive()

    @property
    def told(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def take(self, timeout_s: float | None) -> Arrived | Finished | None:
        """The newest frame that was not taken yet, or the end behind the last one; None: neither came in time."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._newest or self._finished or self._stopped.is_set(), timeout_s
            )
            if self._newest is not None:
                arrived, self._newest = self._newest, None
                return arrived
            return self._finished

    def stop(self) -> None:
        """Tells the thread to end, and wakes who waits in `take`; waits for nobody."""
        self._stopped.set()
        with self._changed:
            self._dropped += self._newest is not None
            self._newest = None
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread; not if it is the one that calls."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        trap = ErrorTrap()
        try:
            with trap:
                self._read_all()
        finally:
            with self._changed:
                self._finished = Finished(trap.error)
                self._changed.notify_all()

    def _read_all(self) -> None:
        frames = self._source.frames(self._stopped)
        try:
            for frame in frames:
                with self._changed:
                    if self._stopped.is_set():
                        return
                    self._read += 1
                    self._dropped += self._newest is not None
                    self._newest = Arrived(frame, time.monotonic())
                    self._changed.notify_all()
        finally:
            if isinstance(frames, Generator):
                frames.close()  # in this thread, which has opened what it closes
