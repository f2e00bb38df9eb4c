"""What is known of a feed: its state, its counts, and what has happened to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from neo_edge.errors import InputError

FeedState = Literal["new", "opening", "running", "stalled", "waiting", "ended", "failed", "stopped"]
"""`opening`: no frame yet; `stalled`: none for too long; `waiting`: to open the source again; then three ends."""

EventKind = Literal[
    "opened",
    "stalled",
    "resumed",
    "lost",
    "size_changed",
    "clock_restarted",
    "frame_refused",
    "session_closed",
    "ended",
    "failed",
]

ENDS: tuple[FeedState, ...] = ("ended", "failed", "stopped")


@dataclass(frozen=True)
class FeedEvent:
    """Something that has happened to a source."""

    number: int  # of all events of the feed, from 1 on
    kind: EventKind
    after_s: float  # since the feed's start
    message: str
    error: Exception | None = None  # of `lost`, `failed` and `frame_refused`


@dataclass(frozen=True)
class FeedStatus:
    """A feed at one moment. Each frame that came is counted once more, by one of the next five."""

    state: FeedState
    frames_read: int  # that the source gave
    frames_handed: int  # to the live session
    frames_skipped: int  # they came too soon behind another for the session's `every`
    frames_dropped: int  # newer ones came before they were handed on
    frames_late: int  # their times were not behind the last frame's, or were no numbers
    frames_refused: int  # they cannot be read, or there is no room for them
    reconnects: int  # times that the source was opened again
    size: tuple[int, int] | None  # width and height of the last frame, in pixels
    last_frame_age_s: float | None  # since the last frame was handed on; None: none was
    blocked_readers: int  # threads that wait in the source and did not come back when they were told to
    error: Exception | None  # why it failed


@dataclass(frozen=True)
class Reconnect:
    """How often a source that has died or stalled is opened again; the wait doubles each time."""

    attempts: int | None = None  # in a row without a frame; None: for ever
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts is not None and (isinstance(self.attempts, bool) or self.attempts < 1):
            raise InputError(f"attempts is {self.attempts}; it must be at least 1, or None for ever")
        waits_s = (self.first_wait_s, self.longest_wait_s)
        if not (all(math.isfinite(wait_s) for wait_s in waits_s) and 0 < waits_s[0] <= waits_s[1]):
            raise InputError(
                f"the waits are {waits_s[0]} and {waits_s[1]} s; they must be above 0, the first not the longer one"
            )

    def wait_s(self, attempt: int) -> float:
        """Seconds before this attempt, counted from 0."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt, 60))
