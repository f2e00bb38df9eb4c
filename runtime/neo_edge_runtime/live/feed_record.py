"""What a feed has counted and said so far."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Literal

from neo_edge_runtime.live.feed_status import ENDS, EventKind, FeedEvent, FeedState, FeedStatus

_log = logging.getLogger(__name__)

KEPT_EVENTS = 256  # the newest ones

Counted = Literal["read", "handed", "skipped", "dropped", "late", "refused", "reconnects"]


class FeedRecord:
    """State, counts and events of one feed; threads share it."""

    def __init__(self, name: str) -> None:
        """`name`: the source's, for messages."""
        self.started_s = 0.0  # of the monotonic clock
        self._name = name
        self._lock = threading.RLock()
        self._state: FeedState = "new"
        self._counts: Counter[Counted] = Counter()
        self._events: deque[FeedEvent] = deque(maxlen=KEPT_EVENTS)
        self._said = 0
        self._size: tuple[int, int] | None = None
        self._last_s: float | None = None  # when a frame was handed on, by the monotonic clock
        self._error: Exception | None = None
        self._refusing = False  # the frame before was refused, too

    @property
    def state(self) -> FeedState:
        """Where the feed is now."""
        return self._state

    def start(self) -> bool:
        """False: it was started or stopped before."""
        with self._lock:
            if self._state != "new":
                return False
            self._state, self.started_s = "opening", time.monotonic()
            return True

    def move_to(self, state: FeedState) -> None:
        """Changes the state, unless it has ended."""
        with self._lock:
            if self._state not in ENDS:
                self._state = state

    def count(self, what: Counted, number: int = 1) -> None:
        """Counts frames, or openings."""
        with self._lock:
            self._counts[what] += number

    def counted(self, what: Counted) -> int:
        """How many so far."""
        return self._counts[what]

    def handed(self, size: tuple[int, int]) -> None:
        """Counts a frame, of this width and height, that the session took."""
        with self._lock:
            before, self._size = self._size, size
            self._counts["handed"] += 1
            self._last_s, self._refusing = time.monotonic(), False
            frames = f"{self._name} gives frames of {size[0]}x{size[1]}"
            if before is None:
                self.say("opened", frames)
            elif before != size:
                self.say("size_changed", f"{frames}, before {before[0]}x{before[1]}")
            self._run_on(first=before is None)

    def skipped(self) -> None:
        """Counts a frame that the session did not want."""
        with self._lock:
            self._counts["skipped"] += 1
            self._run_on()

    def refused(self, error: Exception) -> None:
        """Counts a frame that the session could not take, and says so once in a row."""
        with self._lock:
            self._counts["refused"] += 1
            if not self._refusing:
                self.say("frame_refused", f"a frame of {self._name} is left out: {error}", error=error)
            self._refusing = True

    def fail(self, error: Exception) -> None:
        """Ends it, by this error."""
        with self._lock:
            self._error = error
            message = str(error) if self._name in str(error) else f"{self._name}: {error}"
            self.say("failed", message, error=error, state="failed")

    def say(
        self, kind: EventKind, message: str, *, error: Exception | None = None, state: FeedState | None = None
    ) -> None:
        """Adds an event, and changes the state with it."""
        with self._lock:
            if state is not None:
                self.move_to(state)
            self._said += 1
            after_s = time.monotonic() - self.started_s
            self._events.append(FeedEvent(self._said, kind, after_s, message, error))
        _log.log(logging.WARNING if error is not None else logging.INFO, "%s", message)

    def events(self) -> tuple[FeedEvent, ...]:
        """The newest ones, oldest first."""
        with self._lock:
            return tuple(self._events)

    def status(self, *, reading: tuple[int, int], blocked_readers: int) -> FeedStatus:
        """All of it; `reading`: frames that the present reader has read and dropped."""
        with self._lock:
            counts = self._counts
            return FeedStatus(
                state=self._state,
                frames_read=counts["read"] + reading[0],
                frames_handed=counts["handed"],
                frames_skipped=counts["skipped"],
                frames_dropped=counts["dropped"] + reading[1],
                frames_late=counts["late"],
                frames_refused=counts["refused"],
                reconnects=counts["reconnects"],
                size=self._size,
                last_frame_age_s=None if self._last_s is None else time.monotonic() - self._last_s,
                blocked_readers=blocked_readers,
                error=self._error,
            )

    def _run_on(self, *, first: bool = False) -> None:
        """A frame came that could be used."""
        again = self._state == "opening" and not first and self._size is not None
        if again or self._state == "stalled":
            self.say("resumed", f"{self._name} gives frames again")
        self.move_to("running")
