"""The times of a source's frames, turned into seconds since the first one that only grow."""

from __future__ import annotations

import math

RESTART_FRAMES = (
    5  # frames in a row that are late and in order among themselves: the source's clock began anew
)


class Timeline:
    """A frame that is late is left out; a clock that begins anew goes on where it was."""

    def __init__(self, start_s: float = 0.0) -> None:
        """`start_s`: the time of the first frame."""
        self.restarts = 0  # of the source's clock
        self._last_s: float | None = None
        self._shift_s: float | None = None  # from the source's clock to this one
        self._next_s = start_s  # of the next frame, where `_shift_s` is not known
        self._late: list[float] = []

    def resume(self, at_s: float) -> None:
        """The source was opened again: its next frame has this time, or the one just behind the last frame."""
        floor_s = self._next_s if self._last_s is None else math.nextafter(self._last_s, math.inf)
        self._shift_s, self._next_s = None, max(at_s, floor_s)
        self._late.clear()

    def place(self, time_s: float) -> float | None:
        """Seconds of the frame on this timeline; None: it is late, or its time is no number."""
        if not math.isfinite(time_s):
            return None
        if self._shift_s is None:
            self._shift_s = self._next_s - time_s
        placed_s = time_s + self._shift_s
        if self._last_s is not None and placed_s <= self._last_s:
            if self._late and time_s <= self._late[-1]:
                self._late.clear()
            self._late.append(time_s)
            if len(self._late) < RESTART_FRAMES:
                return None
            placed_s = self._last_s + self._late[-1] - self._late[-2]
            self._shift_s = placed_s - time_s
            self.restarts += 1
        self._late.clear()
        self._last_s = placed_s
        return placed_s
