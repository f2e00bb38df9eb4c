"""What of a video file is read at most."""

from __future__ import annotations

from typing import Any

import pytest

from neo_edge.errors import InputError
from neo_edge_runtime.video_limits import VideoLimits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_duration_s": 0}, "max_duration_s is 0; it must be a number above zero"),
        ({"max_duration_s": float("inf")}, "max_duration_s is inf"),
        ({"max_frames": -1}, "max_frames is -1; it must be a whole number"),
        ({"max_frames": 2.5}, "max_frames is 2.5; it must be a whole number"),
        ({"max_pixels": 10**400}, "max_pixels is a number of about 400 digits"),
        ({"max_pixels": True}, "max_pixels is True"),
        ({"max_decoded_bytes": "1 GiB"}, "max_decoded_bytes is '1 GiB'"),
    ],
)
def test_impossible_limits_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoLimits(**fields)


def test_a_request_lowers_limits_and_never_raises_them() -> None:
    model = VideoLimits(max_duration_s=60, max_frames=10)
    asked = VideoLimits(max_duration_s=600, max_frames=5, max_pixels=100)
    lowered = model.lowered(asked)
    assert (lowered.max_duration_s, lowered.max_frames, lowered.max_pixels) == (60, 5, 100)
    assert model.lowered(None) is model
