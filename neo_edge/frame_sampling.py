"""Which frames of a video are asked about: upstream's rules, frame for frame, and times of one's own.

The rules are those of the public NEO repository (VLMEvalKit_ov/vlmeval/dataset). They count frames, so that for
a video of a steady rate every choice here is upstream's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from neo_edge.errors import InputError
from neo_edge.real_number import is_real
from neo_edge.shown import shown

SamplingMode = Literal["count", "fps", "uniform", "segments", "times"]
"""How frames are chosen; `FrameSampling` has the formulas."""

_MOST_FRAMES = 1_000_000  # a week at 1.6 frames a second
_ENDLESS = 1e9  # seconds: 30 years
_NEEDS = {"count": "frames", "uniform": "frames", "segments": "frames", "fps": "fps", "times": "times_s"}


@dataclass(frozen=True)
class FrameSampling:
    """One choice of frames; each mode has exactly the field that it needs.

    With n frames in the video and r of them a second, all positions rounded down:

    `count`: `frames` inner points, i n / (N + 1) for i = 1..N (videomme.py:227, lvbench.py:98).
    `fps`: `fps` frames a second from the first on, i r / fps; where these were more than `max_frames`,
    i n / (max_frames + 1) for i = 0..max_frames - 1 instead (the same).
    `uniform`: `frames` points with both ends, i (n - 1) / (N - 1) (vsibench.py:575-586).
    `segments`: the middles of `frames` equal parts of the first n - 1, s / 2 + round(i s) with s = (n - 1) / N
    (mvbench.py:311-325, 660-668).
    `times`: what is seen at each of `times_s`.

    As upstream does, a frame stands more than once where more are asked for than there are. Where `fps` gives none,
    since the video is too short, the first frame is taken; upstream gives none.
    """

    mode: SamplingMode
    frames: int | None = None  # N
    fps: float | None = None  # frames a second
    times_s: tuple[float, ...] | None = None  # seconds from the first frame, in order
    max_frames: int | None = None  # with fps; None: as many as there are
    jpeg_round_trip: bool = (
        False  # compress each frame as upstream does (JPEG, quality 75) before it is resized
    )

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in _NEEDS:
            raise InputError(f"there is no sampling mode {shown(self.mode)}: use one of {', '.join(_NEEDS)}")
        given = {name for name in ("frames", "fps", "times_s") if getattr(self, name) is not None}
        if given != {_NEEDS[self.mode]}:
            raise InputError(
                f"sampling mode {self.mode!r} takes {_NEEDS[self.mode]}; found {', '.join(sorted(given)) or 'nothing'}"
            )
        for name in ("frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= _MOST_FRAMES):
                raise InputError(
                    f"{name} is {shown(value)}; it must be a whole number from 1 to {_MOST_FRAMES}"
                )
        if self.max_frames is not None and self.mode != "fps":
            raise InputError(f"max_frames bounds fps; with mode {self.mode!r} leave it out")
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps <= _MOST_FRAMES):
            raise InputError(f"fps is {shown(self.fps)}; it must be a positive and finite number")
        if self.times_s is not None:
            object.__setattr__(self, "times_s", _checked_times(self.times_s))

    def at_most(self, max_frames: int) -> FrameSampling:
        """The same, with `fps` bounded to so many frames; other modes have their own number."""
        if self.mode != "fps":
            return self
        lower = max_frames if self.max_frames is None else min(self.max_frames, max_frames)
        return replace(self, max_frames=lower)

    def count(self, length: int, video_fps: float) -> int:
        """How many frames are chosen of a video of `length` frames at `video_fps`; costs nothing."""
        if self.times_s is not None:
            return len(self.times_s)
        if self.frames is not None:
            return self.frames
        assert self.fps is not None
        wanted = max(1, int(length / video_fps * self.fps))
        return wanted if self.max_frames is None else min(wanted, self.max_frames)

    def indices(self, length: int, video_fps: float) -> list[int]:
        """Positions of the chosen frames, from 0, in order; a position may stand more than once.

        Args:
            length: frames of the video.
            video_fps: its frames per second, constant. (For a rate that varies, see `neo_edge.read_video`.)

        Raises:
            InputError: the video has no frames or no rate.
        """
        if length < 1 or not (math.isfinite(video_fps) and video_fps > 0):
            raise InputError(
                f"a video of {length} frames at {video_fps} a second has no frames to choose from"
            )
        number = self.count(length, video_fps)
        if self.mode == "count":
            step = length / (number + 1)
            return [int(i * step) for i in range(1, number + 1)]
        if self.mode == "fps":
            assert self.fps is not None
            capped = number < int(length / video_fps * self.fps)
            step = length / (number + 1) if capped else video_fps / self.fps
            return [min(int(i * step), length - 1) for i in range(number)]
        if self.mode == "uniform":
            # numpy.linspace(0, length - 1, N, dtype=int), whose last point is set and not computed
            step = (length - 1) / max(1, number - 1)
            return [int(i * step) for i in range(number - 1)] + [length - 1 if number > 1 else 0]
        if self.mode == "segments":
            segment = (length - 1) / number
            return [int(segment / 2 + round(segment * i)) for i in range(number)]
        assert self.times_s is not None
        return [min(int(time_s * video_fps + _ROUNDING), length - 1) for time_s in self.times_s]


_ROUNDING = 1e-6  # of a frame: a time that was computed as index / fps means that frame


def _checked_times(times_s: Sequence[float]) -> tuple[float, ...]:
    times = tuple(times_s) if isinstance(times_s, Sequence) and not isinstance(times_s, str) else ()
    if not times or not all(_is_number(one) and one >= 0 for one in times) or list(times) != sorted(times):
        raise InputError(f"times_s is {shown(times_s)}; give seconds from 0 on, in order")
    return tuple(float(one) for one in times)


def _is_number(value: object) -> bool:
    return is_real(value) and -_ENDLESS < value < _ENDLESS
