"""Hands the frames of a source to a live session, and says what becomes of the source."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType
from typing import Protocol

from neo_edge.errors import (
    ContextOverflowError,
    InputError,
    MemoryBudgetError,
    SessionClosedError,
    SourceError,
)
from neo_edge.shown import shown
from neo_edge_runtime.device_frame import device_frame, is_on_device
from neo_edge_runtime.image_input import ImageSource, load_image
from neo_edge_runtime.live.feed_record import FeedRecord
from neo_edge_runtime.live.feed_status import FeedEvent, FeedStatus, Reconnect
from neo_edge_runtime.live.frame_reader import Arrived, ErrorTrap, Finished, FrameReader
from neo_edge_runtime.live.source import FrameSource, LiveSource, open_source
from neo_edge_runtime.live.timeline import Timeline

MAX_BLOCKED_READERS = 3  # a source that blocks is opened again beside so many that do not come back


class FrameSink(Protocol):
    """What frames are handed to: a `LiveSession`, or anything else that takes them."""

    def wants(self, time_s: float) -> bool: ...

    def add(self, image: ImageSource, time_s: float) -> object: ...


class LiveFeed:
    """Frames of a source for a live session, from threads of its own.

        with model.watch() as live, LiveFeed("/dev/video0", live) as feed:
            print(live.ask("Where is the red ball?").finish().text, feed.status().state)

    The source is read as fast as it gives frames. While the session is busy with one, the newest replaces those that
    wait. Frames get their times from the first one on, in seconds that only grow. Nothing that a source does raises
    in the caller's thread: `status` and `events` say it, and the log.
    """

    def __init__(
        self,
        source: LiveSource,
        live: FrameSink,
        *,
        stall_s: float = 10.0,
        reconnect: Reconnect | None = None,
        start_s: float = 0.0,
    ) -> None:
        """Nothing starts before `start` or the `with` statement.

        Args:
            source: what `open_source` takes, or what it gave.
            live: gets `add(image, time_s)`, from one thread, of frames that it `wants`; the image is an RGB PIL image,
                or an array on a GPU as the source gave it.
            stall_s: seconds without a frame after which the source counts as stalled.
            reconnect: open a source again that has died or stalled; None: its death ends the feed, and a stall is
                only said.
            start_s: time of the first frame, for a session that has seen others.

        Raises:
            SourceError, InputError: as `open_source`, or a number is out of range.
        """
        if not (math.isfinite(stall_s) and stall_s > 0 and math.isfinite(start_s) and start_s >= 0):
            raise InputError(
                f"stall_s is {shown(stall_s)} and start_s {shown(start_s)}; the first must be above 0 s and the "
                "second not below"
            )
        self._source: FrameSource = open_source(source)
        self._live, self._stall_s, self._reconnect = live, stall_s, reconnect
        self._timeline = Timeline(start_s)
        self._start_s = start_s
        self._record = FeedRecord(self._source.name)
        self._stop_asked = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.RLock()  # guards the readers, and who starts and stops
        self._readers: list[FrameReader] = []  # the last one reads; those before it are blocked
        self._left_behind: set[FrameReader] = set()  # not waited for again
        self._thread = threading.Thread(target=self._run, name="live-feed", daemon=True)

    def start(self) -> None:
        """Begins to read; a feed starts once.

        Raises:
            SessionClosedError: it was started or stopped before.
        """
        with self._lock:
            if not self._record.start():
                raise SessionClosedError("this feed was started before: make another LiveFeed")
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> FeedStatus:
        """Ends the feed from any state, also twice and from any thread; the session stays open.

        Waits until the frame that is being added has been added, `timeout_s` at most. A thread that is blocked in
        the source is left behind, which `blocked_readers` counts.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._stop_asked.set()
            if self._record.state == "new":
                self._record.move_to("stopped")
                self._ended.set()
            readers = list(self._readers)
        for reader in readers:
            reader.stop()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:  # one may have been started meanwhile
            readers = [reader for reader in self._readers if reader not in self._left_behind]
        for reader in readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        self._left_behind.update(reader for reader in readers if reader.alive)
        return self.status()

    def wait(self, timeout_s: float | None = None) -> FeedStatus:
        """Waits until the source has ended or failed, or the feed was stopped."""
        self._ended.wait(timeout_s)
        return self.status()

    def status(self) -> FeedStatus:
        """How things are now."""
        with self._lock:
            reading = self._readers[-1].counts if self._readers else (0, 0)
            return self._record.status(reading=reading, blocked_readers=self._blocked())

    def events(self) -> tuple[FeedEvent, ...]:
        """What has happened, oldest first; the newest 256 are kept."""
        return self._record.events()

    def __enter__(self) -> LiveFeed:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        trap = ErrorTrap()
        with trap:
            self._feed()
        with self._lock:
            for reader in self._readers:
                reader.stop()
            if trap.error is not None:
                self._record.fail(trap.error)
            self._record.move_to("stopped")
            self._ended.set()

    def _feed(self) -> None:
        record, name = self._record, self._source.name
        attempt = 0
        while not self._stop_asked.is_set():
            handed = record.counted("handed")
            finished = self._hand_on(self._open())
            if finished is None:  # stopped
                return
            error = finished.error
            if error is None and record.counted("read") + self._readers[-1].counts[0] == 0:
                error = SourceError(f"{name} has ended without a frame: give one that has some")
            if error is None:
                record.say("ended", f"{name} has ended", state="ended")
                return
            attempt = 0 if record.counted("handed") > handed else attempt
            wait_s = self._wait_s(error, attempt)
            if wait_s is None:
                record.fail(error)
                return
            record.say("lost", f"{error}; opened again in {wait_s:g} s", error=error, state="waiting")
            attempt += 1
            if not self._stop_asked.wait(wait_s):
                record.count("reconnects")
                self._timeline.resume(self._start_s + time.monotonic() - record.started_s)

    def _open(self) -> FrameReader:
        with self._lock:
            if self._readers:
                read, dropped = self._readers[-1].counts
                self._record.count("read", read)
                self._record.count("dropped", dropped)
            self._readers = [reader for reader in self._readers if reader.alive]
            if not self._stop_asked.is_set():
                self._record.move_to("opening")
            self._readers.append(FrameReader(self._source))
            return self._readers[-1]

    def _hand_on(self, reader: FrameReader) -> Finished | None:
        """Until the source ends; None: until the feed is stopped."""
        useful_s = time.monotonic()  # when the last frame came that could be used
        while not self._stop_asked.is_set():
            stalled = self._record.state == "stalled"
            left_s = None if stalled else max(0.0, useful_s + self._stall_s - time.monotonic())
            arrived = reader.take(left_s)
            if self._stop_asked.is_set():
                break
            if isinstance(arrived, Finished):
                return arrived
            if arrived is not None and self._hand(arrived):
                useful_s = time.monotonic()
            elif not stalled and time.monotonic() >= useful_s + self._stall_s:
                error = SourceError(self._stall_message(reader))
                self._record.say("stalled", str(error), error=error, state="stalled")
                if self._reconnect is not None and self._source.can_reopen:
                    reader.stop()
                    return Finished(error)
        reader.stop()
        return None

    def _hand(self, arrived: Arrived) -> bool:
        """Whether the frame could be used."""
        own_s = arrived.frame.time_s
        restarts = self._timeline.restarts
        time_s = self._timeline.place(arrived.at_s if own_s is None else own_s)
        if time_s is None:
            self._record.count("late")
            return False
        if self._timeline.restarts > restarts:
            self._record.say(
                "clock_restarted",
                f"the times of {self._source.name} began anew; they go on at {time_s:.2f} s",
            )
        try:
            if self._live.wants(time_s):
                self._record.handed(self._add(arrived.frame.image, time_s))
            else:  # of a camera's 30 frames a second most are not even decoded to RGB
                self._record.skipped()
        except (InputError, ContextOverflowError, MemoryBudgetError) as error:
            self._record.refused(error)
            return False
        except SessionClosedError as error:
            self._record.say("session_closed", f"no more frames of {self._source.name} are taken: {error}")
            self._stop_asked.set()
            return False
        return True

    def _add(self, image: ImageSource, time_s: float) -> tuple[int, int]:
        """Width and height of the frame that was added."""
        if is_on_device(image):
            frame = device_frame(image)
            self._live.add(image, time_s)  # which says so when its model runs elsewhere
            return frame.width, frame.height
        loaded = load_image(image)
        self._live.add(loaded, time_s)
        return loaded.size

    def _wait_s(self, error: Exception, attempt: int) -> float | None:
        """Seconds before the source is opened again; None: it is not."""
        policy = self._reconnect
        again = policy is not None and self._source.can_reopen and isinstance(error, SourceError)
        if policy is None or not again or self._blocked() > MAX_BLOCKED_READERS:
            return None
        return None if policy.attempts is not None and attempt >= policy.attempts else policy.wait_s(attempt)

    def _blocked(self) -> int:
        """Readers that were told to stop and are still in the source."""
        return sum(reader.alive and reader.told for reader in self._readers)

    def _stall_message(self, reader: FrameReader) -> str:
        read, _ = reader.counts
        if not read:
            return f"{self._source.name} has given no frame for {self._stall_s:g} s: see that it runs"
        record = self._record
        return (
            f"{self._source.name} has given no usable frame for {self._stall_s:g} s ({read} came in all, "
            f"{record.counted('late')} late, {record.counted('refused')} refused): see that it runs, and its times"
        )
