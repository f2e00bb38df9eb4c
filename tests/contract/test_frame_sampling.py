"""Which frames are chosen, against upstream's rules written down a second time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neo_edge.errors import InputError
from neo_edge.frame_sampling import FrameSampling

TRIPLES = 1000


def upstreams(mode: str, length: int, video_fps: float, *, frames: int, fps: float, cap: int) -> list[int]:
    """The rules as NEO's evaluation states them, in numpy; nothing of neo_edge is used."""
    if mode == "count":
        return (np.arange(1, frames + 1) * (length / (frames + 1))).astype(np.int64).tolist()
    if mode == "uniform":
        return np.linspace(0, length - 1, frames, dtype=int).tolist()
    if mode == "segments":
        part = np.float64(length - 1) / frames
        return [int(part / 2 + np.round(part * number)) for number in range(frames)]
    seconds = length / video_fps
    required = int(seconds * fps)
    step = video_fps / fps
    if required > cap:
        required, step = cap, length / (cap + 1)
    return [int(number * step) for number in range(required)]


def triples() -> list[tuple[int, float, int]]:
    """(length, fps, N), of clips and of films, at the rates that cameras and films have and at any other."""
    rng = np.random.default_rng(6)
    rates = [23.976, 24000 / 1001, 24.0, 25.0, 29.97, 30000 / 1001, 30.0, 50.0, 59.94, 60.0, 120.0]
    return [
        (
            int(10 ** rng.uniform(0, 5.4)),
            float(rng.choice(rates) if rng.random() < 0.6 else rng.uniform(0.2, 240)),
            int(10 ** rng.uniform(0, 2.7)),
        )
        for _ in range(TRIPLES)
    ]


@pytest.mark.parametrize("mode", ["count", "uniform", "segments"])
def test_a_number_of_frames_is_chosen_as_upstream_does(mode: Any) -> None:
    for length, fps, number in triples():
        expected = upstreams(mode, length, fps, frames=number, fps=1, cap=1)
        assert FrameSampling(mode, frames=number).indices(length, fps) == expected, (length, fps, number)


@pytest.mark.parametrize("cap", [128, 256])
def test_a_rate_with_a_cap_is_chosen_as_upstream_does(cap: int) -> None:
    seen = {"none": 0, "all": 0, "capped": 0}
    for length, video_fps, number in triples():
        fps = number / 10
        expected = upstreams("fps", length, video_fps, frames=1, fps=fps, cap=cap)
        found = FrameSampling("fps", fps=fps, max_frames=cap).indices(length, video_fps)
        assert found == (expected or [0]), (length, video_fps, fps)
        kind = "none" if not expected else "capped" if length / video_fps * fps >= cap + 1 else "all"
        seen[kind] += 1
        without_cap = upstreams("fps", length, video_fps, frames=1, fps=fps, cap=10**9)
        assert FrameSampling("fps", fps=fps).indices(length, video_fps) == (without_cap or [0])
    assert min(seen.values()) > 50, seen


def test_every_choice_is_in_order_and_inside_the_video() -> None:
    for length, fps, number in triples()[:300]:
        for sampling in (
            FrameSampling("count", frames=number),
            FrameSampling("fps", fps=number / 10, max_frames=256),
            FrameSampling("uniform", frames=number),
            FrameSampling("segments", frames=number),
            FrameSampling("times", times_s=(0, length / fps)),
        ):
            chosen = sampling.indices(length, fps)
            assert chosen == sorted(chosen)
            assert 0 <= chosen[0] <= chosen[-1] < length
            assert len(chosen) == sampling.count(length, fps)


def test_a_time_means_the_frame_that_is_shown_then() -> None:
    sampling = FrameSampling("times", times_s=(0, 0.099, 0.1, 0.35, 9.9))
    assert sampling.indices(100, 10.0) == [0, 0, 1, 3, 99]
    for index in range(5000):  # index / fps is that frame, whatever the rounding
        assert FrameSampling("times", times_s=(index / 29.97,)).indices(5000, 29.97) == [index]


def test_a_lower_ceiling_bounds_a_rate_and_leaves_a_number_alone() -> None:
    assert FrameSampling("fps", fps=1.0, max_frames=64).at_most(16).max_frames == 16
    assert FrameSampling("fps", fps=1.0, max_frames=8).at_most(16).max_frames == 8
    assert FrameSampling("fps", fps=1.0, jpeg_round_trip=True).at_most(4) == FrameSampling(
        "fps", fps=1.0, max_frames=4, jpeg_round_trip=True
    )
    assert FrameSampling("count", frames=99).at_most(16).frames == 99


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "random"}, "no sampling mode 'random'"),
        ({"mode": "count"}, "takes frames; found nothing"),
        ({"mode": "fps", "frames": 4}, "takes fps; found frames"),
        ({"mode": "uniform", "frames": 4, "fps": 1.0}, "takes frames; found fps, frames"),
        ({"mode": "count", "frames": 0}, "frames is 0; it must be a whole number"),
        ({"mode": "count", "frames": 2.5}, "frames is 2.5; it must be a whole number"),
        ({"mode": "count", "frames": 10**9}, "from 1 to 1000000"),
        ({"mode": "count", "frames": True}, "frames is True"),
        ({"mode": "count", "frames": 4, "max_frames": 2}, "max_frames bounds fps"),
        ({"mode": "fps", "fps": 0.0}, "fps is 0.0; it must be a positive"),
        ({"mode": "fps", "fps": float("nan")}, "fps is nan"),
        ({"mode": "fps", "fps": "fast"}, "fps is 'fast'"),
        ({"mode": "fps", "fps": 1.0, "max_frames": -1}, "max_frames is -1"),
        ({"mode": "count", "frames": 10**400}, "frames is a number of about 400 digits"),
        ({"mode": "fps", "fps": 10**400}, "fps is a number of about 400 digits"),
        ({"mode": "times", "times_s": (10**400,)}, "give seconds from 0 on, in order"),
        ({"mode": []}, "no sampling mode"),
        ({"mode": "times", "times_s": ()}, "give seconds from 0 on, in order"),
        ({"mode": "times", "times_s": (2.0, 1.0)}, "give seconds from 0 on, in order"),
        ({"mode": "times", "times_s": (-1.0,)}, "give seconds from 0 on, in order"),
        ({"mode": "times", "times_s": (float("inf"),)}, "give seconds from 0 on, in order"),
        ({"mode": "times", "times_s": "12"}, "give seconds from 0 on, in order"),
        ({"mode": "times", "times_s": 3}, "give seconds from 0 on, in order"),
    ],
)
def test_what_is_no_choice_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrameSampling(**fields)


@pytest.mark.parametrize(("length", "fps"), [(0, 25.0), (3, 0.0), (3, float("nan")), (3, float("inf"))])
def test_a_video_without_frames_or_rate_gives_no_choice(length: int, fps: float) -> None:
    with pytest.raises(InputError, match="no frames to choose from"):
        FrameSampling("count", frames=2).indices(length, fps)
