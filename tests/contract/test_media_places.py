"""Images and videos in one prompt, and each video's text to the character."""

from __future__ import annotations

import numpy as np
import pytest

from neo_edge.errors import PromptError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.media_places import FrameTimes, place_media

TIMED = FrameTimes([0.0, 1.5], 2.0, 1.0)
TIMED_TEXT = (
    "The time range of this video is [00:00-00:02], and the following is a series of 2 frames sampled at 1.0 FPS.\n"
    "[00:00.00]:<image>\n[00:01.50]:<image>\n"
)
PLAIN = FrameTimes([None])


def upstreams_prompt(indices: list[int], length: int, fps: float, question: str, *, spatial: bool) -> str:
    """What NEO's evaluation writes, stated a second time."""

    def mmss(seconds: float, form: str) -> str:
        return f"{int(seconds // 60):02d}:{format(seconds % 60, form)}"

    duration = length / fps
    whole = f"{int(duration // 60):02d}:{int(duration % 60):02d}"
    text = (
        f"The time range of this video is [00:00-{whole}], and the following is a series of {len(indices)} frames "
        f"sampled at {round(len(indices) / duration, 1)} FPS.\n"
    )
    times = [mmss(index / fps, "05.2f") for index in indices]
    if spatial:
        lines = [f"Frame{number} is at [{time}]:<image>" for number, time in enumerate(times, 1)]
        return text + "\n".join(lines) + "\n" + question
    return text + "".join(f"[{time}]:<image>\n" for time in times) + question


def test_prompts_are_upstreams_to_the_character() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        length, fps = int(rng.integers(1, 400_000)), float(rng.uniform(0.5, 240))
        number = int(rng.integers(1, 60))
        indices = FrameSampling("count", frames=number).indices(length, fps)
        duration = length / fps
        times = FrameTimes([index / fps for index in indices], duration, number / duration)
        assert place_media("When?", 0, [times]).text == upstreams_prompt(
            indices, length, fps, "When?", spatial=False
        )
        assert place_media("When?", 0, [times], video_style="numbered").text == upstreams_prompt(
            indices, length, fps, "When?", spatial=True
        )


def test_videos_and_images_stand_where_the_text_says() -> None:
    placed = place_media("Is <image> in <video>\nor <video> or <image>?", 2, [TIMED, PLAIN])
    assert placed.text == f"Is <image> in {TIMED_TEXT}or <image>\n or <image>?"
    assert placed.order == (("image", 0), ("video", 0), ("video", 1), ("image", 1))


def test_a_new_line_behind_a_place_ends_the_last_frame() -> None:
    assert place_media("<video>\nq", 0, [TIMED]).text == place_media("<video>q", 0, [TIMED]).text
    assert place_media("<video>\n\nq", 0, [TIMED]).text == f"{TIMED_TEXT}\nq"


def test_without_places_images_come_first_then_videos_then_the_text() -> None:
    placed = place_media("q", 1, [TIMED, PLAIN])
    assert placed.text == f"<image>\n{TIMED_TEXT}<image>\nq"
    assert placed.order == (("image", 0), ("video", 0), ("video", 1))
    numbered = place_media("q", 2, [PLAIN], image_style="numbered", video_style="numbered")
    assert numbered.text == "Image-1: <image>\nImage-2: <image>\nFrame-1: <image>\nq"


def test_one_kind_may_have_places_and_the_other_none() -> None:
    assert place_media("see <image>!", 1, [PLAIN]).order == (("video", 0), ("image", 0))
    assert place_media("see <video>!", 1, [PLAIN]).order == (("image", 0), ("video", 0))


def test_the_word_video_is_text_in_a_message_without_videos() -> None:
    placed = place_media("what does <video> mean?", 1, [])
    assert placed.text == "<image>\nwhat does <video> mean?"
    assert placed.order == (("image", 0),)


@pytest.mark.parametrize(
    ("text", "images", "videos", "message"),
    [
        ("<video> and <video>", 0, [PLAIN], "2 <video> places for 1 videos"),
        ("<video>", 0, [PLAIN, PLAIN], "1 <video> places for 2 videos"),
        ("<image> <video>", 0, [PLAIN], "brings videos only"),
        ("<image> <video>", 2, [PLAIN], "1 <image> places for 2 images"),
        ("q", 0, [FrameTimes([])], "at least one frame"),
        ("q", 0, [FrameTimes([2.0, 1.0])], "in order"),
        ("q", 0, [FrameTimes([0.0], 2.0, None)], "give both or none"),
        ("q\ud800", 0, [PLAIN], "half of a surrogate pair"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, images: int, videos: list[FrameTimes], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        place_media(text, images, videos)
