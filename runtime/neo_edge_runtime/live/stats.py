"""What a live session has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of one frame by stage, or their means."""

    preprocess_ms: float = 0.0  # the picture is read and resized
    vision_ms: float = 0.0  # patches are packed and the vision graph runs
    prefill_ms: float = 0.0  # its tokens go through the decoder into the cache
    window_ms: float = 0.0  # older frames are dropped, what the policy runs again included

    @property
    def total_ms(self) -> float:
        """All stages."""
        return self.preprocess_ms + self.vision_ms + self.prefill_ms + self.window_ms

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def over(self, frames: int) -> StageTimes:
        """The mean of so many; zeros where there were none."""
        return StageTimes(*(getattr(self, field.name) / max(1, frames) for field in fields(self)))


@dataclass(frozen=True)
class LiveStats:
    """A live session at one moment. Of the frames seen, each was skipped, used or dropped, or it waits."""

    frames_seen: int  # that `add` took
    frames_skipped: int  # too close to the frame before them (`every`)
    frames_used: int  # that went into the cache, those that have left the window since included
    frames_dropped: int  # superseded by a newer one while an answer was decoded, or refused for lack of room
    frames_waiting: int  # 0 or 1: the newest one that came while an answer is decoded
    frames_in_window: int
    max_frames: int
    questions: int  # asked so far
    cache_tokens: int  # of the window and what stands before it
    cache_capacity_tokens: int  # that the cache has room for now
    next_t: int  # position of the token that would follow
    windows_cut: int  # how often older frames were dropped to make room
    tokens_recomputed: int  # that went through the decoder again for that
    positions_shifted: int  # how often all positions were moved back, before the model's last one was reached
    lag_s: (
        float | None
    )  # time of the newest frame seen less that of the newest in the cache; None: no frame yet
    mean_frame: StageTimes  # of all frames used, the work of cutting windows spread over them
    last_frame: StageTimes  # of the newest frame in the cache

    @property
    def cache_fill(self) -> float:
        """Share of the window that is taken, 0 to 1."""
        return self.frames_in_window / self.max_frames
