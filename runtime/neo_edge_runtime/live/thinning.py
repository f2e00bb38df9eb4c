"""Which frames of a stream are taken: at most one in each stretch of `every` seconds."""

from __future__ import annotations

import math
import re

from neo_edge.errors import InputError
from neo_edge.shown import shown

_EVERY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)?")
_SLACK = 1e-6  # of the interval: 15 frames at 30 a second are not quite half a second in floating point


def parse_every(every: str | float | None) -> float:
    """Seconds of `"0.5s"`, `"0.5"`, `"500ms"` or a number; None is 0, every frame.

    Raises:
        InputError: it is none of these, or below zero.
    """
    if every is None:
        return 0.0
    if isinstance(every, str):
        match = _EVERY.fullmatch(every.strip())
        if match is not None:
            return float(match[1]) / (1000 if match[2] == "ms" else 1)
    elif not isinstance(every, bool) and isinstance(every, int | float) and 0 <= every < math.inf:
        return float(every)
    raise InputError(
        f'every is {shown(every)}; give seconds from 0 on, as a number, "0.5s" or "500ms", or None for every frame'
    )


class Thinning:
    """Takes the first frame, then the first one in each further stretch of `every_s`, counted from there.

    The stretches stand still: a frame that comes late in one does not delay the next, so the mean rate holds.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._first_s: float | None = None
        self._stretch = 0  # of the last frame taken

    def takes(self, time_s: float) -> bool:
        """Whether a frame of this time would be taken."""
        return self._first_s is None or not self._every_s or self._stretch_of(time_s) > self._stretch

    def take(self, time_s: float) -> None:
        """Counts it as taken."""
        if self._first_s is None:
            self._first_s = time_s
        elif self._every_s:
            self._stretch = self._stretch_of(time_s)

    def _stretch_of(self, time_s: float) -> int:
        assert self._first_s is not None
        return math.floor((time_s - self._first_s) / self._every_s + _SLACK)
