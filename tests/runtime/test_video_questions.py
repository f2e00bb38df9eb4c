"""Video files in questions: the prompt, the pictures that the model sees, the limits."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS
from video_files import decoded_through, numbered_picture, video

from neo_edge.errors import InputError, MissingExtraError, PromptError, VideoError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.options import SamplingOptions
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Frame, Model, Request, Video, VideoLimits, VideoWarning, read_video
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.preprocessing import PixelLimits, size_image
from neo_edge_runtime.prompt_assembly import PromptAssembly
from neo_edge_runtime.prompt_file import open_prompts

CLIP = video([numbered_picture(number) for number in range(24)])
JPEGS = video(
    [numbered_picture(number) for number in range(24)],
    codec="mjpeg",
    container="avi",
    pixel_format="yuvj420p",
)
CUT_CLIP = JPEGS[: len(JPEGS) * 2 // 3]
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
PIXELS = 64 * 96
TWO = FrameSampling("count", frames=2)
SHORT = SamplingOptions(max_new_tokens=2)
SENTENCE = (
    "The time range of this video is [00:00-00:02], and the following is a series of {} frames sampled at "
    "{} FPS.\n"
)


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    limits = VideoLimits(max_frames=8)
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer, max_pixels=PIXELS, video_limits=limits) as model:
        yield model


def asked(model: Model, prompt: str, **arguments: Any) -> str:
    request = model.stream(prompt, **arguments).request
    assert request.layout.is_visual.sum() == 6 * len(request.images)
    assert model.tokenizer is not None
    return model.tokenizer.decode(request.input_ids.tolist())


def test_a_video_file_stands_before_the_question_as_upstream_writes_it(model: Model) -> None:
    text = asked(model, "When?", videos=[CLIP], frame_sampling=TWO)
    assert text == f"user\n{SENTENCE.format(2, 0.8)}[00:00.80]:\n[00:01.60]:\nWhen?\nassistant\n"


def test_without_a_choice_the_protocol_makes_it(model: Model) -> None:
    text = asked(model, "When?", videos=[CLIP])
    assert text == f"user\n{SENTENCE.format(2, 0.8)}[00:00.00]:\n[00:01.00]:\nWhen?\nassistant\n"


def test_videos_and_images_mix_in_the_order_of_their_places(model: Model) -> None:
    stream = model.stream(
        "<video>Is <image> in <video>?", [PICTURE], videos=[CLIP, io.BytesIO(CLIP)], frame_sampling=TWO
    )
    assert model.tokenizer is not None
    text = model.tokenizer.decode(stream.request.input_ids.tolist())
    clip = f"{SENTENCE.format(2, 0.8)}[00:00.80]:\n[00:01.60]:\n"
    assert text == f"user\n{clip}Is  in {clip}?\nassistant\n"
    frames = [decoded_through(CLIP)[number] for number in (8, 16)]
    pixels = [picture.pixels for picture in stream.request.images]
    for found, expected in zip(pixels, [*frames, PICTURE, *frames], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_file_and_what_was_read_of_it_ask_the_same(model: Model) -> None:
    clip = read_video(CLIP, TWO)
    assert isinstance(clip, Video)
    direct = model.generate("When?", videos=[CLIP], frame_sampling=TWO, options=SHORT)
    read = model.generate("When?", videos=[clip], options=SHORT)
    frames = model.generate(
        "When?", frames=clip.frames, video_duration_s=clip.duration_s, fps=clip.fps, options=SHORT
    )
    assert direct.token_ids == read.token_ids == frames.token_ids
    assert direct.usage.prompt_tokens == read.usage.prompt_tokens == frames.usage.prompt_tokens


def test_a_chat_and_a_batch_take_videos(model: Model) -> None:
    alone = model.generate("When?", videos=[CLIP], frame_sampling=TWO, options=SHORT)
    with model.chat() as chat:
        first = chat.send("When?", videos=[CLIP], frame_sampling=TWO, options=SHORT)
        again = chat.send("And <video> here?", videos=[CLIP], frame_sampling=TWO, options=SHORT)
    assert first.token_ids == alone.token_ids
    assert again.usage.visual_tokens == 12
    (batched,) = model.generate_batch([Request("When?", videos=[CLIP], frame_sampling=TWO, options=SHORT)])
    assert batched.token_ids == alone.token_ids


def test_frames_have_the_protocols_own_pixel_limits(backend: NumpyBackend) -> None:
    config = backend.traits.config.vision
    edge = get_protocol("edge")
    assert edge.frame_pixel_limits(config)[1] <= 360 * 640
    assert get_protocol("neo-ov-video").frame_pixel_limits(config) == (4096, 230400)
    assert get_protocol("neo-ov-spatial").frame_sampling == FrameSampling("uniform", frames=32)
    assert get_protocol("neo-ov-image").frame_sampling == FrameSampling("fps", fps=1.0, max_frames=256)
    prompts = PromptAssembly(
        config=backend.traits.config,
        tokens=TOKENS,
        tokenizer=None,
        protocol=edge,
        limits=PixelLimits(1024, 64 * 64),
        upstream_image_rules=False,
        frame_limits=PixelLimits(1024, 1024),
    )
    shown = prompts.pictures("q", [PICTURE], None, None, None)
    framed = prompts.pictures("q", (), [Frame(PICTURE, 0.0)], None, None)
    assert (
        shown.sized[0].grid.visual_tokens
        == size_image(load_image(PICTURE), config, PixelLimits(1024, 64 * 64)).grid.visual_tokens
    )
    assert framed.sized[0].grid.visual_tokens == 1


def test_a_damaged_file_warns_and_says_so_in_the_answer(model: Model) -> None:
    with pytest.warns(VideoWarning, match="cut|damaged|announces"):
        answer = model.generate("When?", videos=[CUT_CLIP], options=SHORT)
    assert len(answer.warnings) == 1
    assert answer.warnings[0].startswith("the video data: ")
    assert answer.to_dict()["warnings"] == answer.warnings
    assert "warnings" not in model.generate("When?", options=SHORT).to_dict()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"videos": CLIP}, InputError, "videos is one bytes; pass a list"),
        ({"videos": "clip.mp4"}, InputError, "videos is one str; pass a list"),
        ({"videos": 5}, InputError, "videos"),
        ({"videos": ["missing.mp4"]}, VideoError, "missing.mp4 cannot be read"),
        ({"videos": [CLIP], "frames": [Frame(PICTURE)]}, PromptError, "at once"),
        ({"videos": [Video(())]}, PromptError, "at least one frame"),
        ({"videos": [Video((PICTURE,))]}, InputError, "a frame is ndarray"),
        ({"videos": [Video((Frame(PICTURE),) * 9)]}, InputError, "9 frames; at most 8"),
        (
            {"videos": [CLIP], "frame_sampling": FrameSampling("count", frames=9)},
            VideoError,
            "9 frames of .* at most 8",
        ),
        (
            {
                "videos": [CLIP],
                "frame_sampling": FrameSampling("count", frames=9),
                "video_limits": VideoLimits(max_frames=100),
            },
            VideoError,
            "9 frames of .* at most 8",
        ),
        ({"videos": [CLIP], "video_limits": VideoLimits(max_pixels=10)}, VideoError, "at most 10"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(
    model: Model, backend: NumpyBackend, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate("When?", **changes)
    assert backend.runs == []


def test_a_lower_limit_bounds_the_protocols_own_choice(model: Model) -> None:
    long = video([numbered_picture(number) for number in range(24)], rate=1)
    stream = model.stream("When?", videos=[long])
    assert len(stream.request.images) == 8
    lower = model.stream("When?", videos=[long], video_limits=VideoLimits(max_frames=3))
    assert len(lower.request.images) == 3


def test_token_ids_bring_no_videos(model: Model) -> None:
    with pytest.raises(InputError, match="frames, videos and system"):
        model.generate([1, 2, 3], videos=[CLIP])


def test_a_file_of_prompts_names_videos(model: Model, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(CLIP)
    line = {"prompt": "When?", "videos": ["clip.mp4"], "frame_sampling": {"mode": "count", "frames": 2}}
    (tmp_path / "asked.jsonl").write_text(json.dumps(line))
    with open_prompts(tmp_path / "asked.jsonl", system=None, options=SHORT) as prompts:
        assert prompts.check() == 1
        requests = [numbered.request for numbered in prompts]
    (answer,) = model.generate_batch(requests)
    alone = model.generate("When?", videos=[CLIP], frame_sampling=TWO, options=SHORT)
    assert answer.token_ids == alone.token_ids


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"videos": "clip.mp4"}, "videos is 'clip.mp4'; write a list of file names"),
        ({"videos": ["missing.mp4"]}, "missing.mp4 is no file"),
        ({"videos": ["clip.mp4"], "frame_sampling": 8}, "frame_sampling has 8; write an object"),
        ({"videos": ["clip.mp4"], "frame_sampling": {"speed": 1}}, "some of mode, frames"),
        (
            {"videos": ["clip.mp4"], "frame_sampling": {"mode": "count"}},
            "frame_sampling: .* takes frames; found nothing",
        ),
        ({"videos": ["clip.mp4"], "prompt": "<video> <video>"}, "2 <video> places for 1 videos"),
        ({"videos": ["clip.mp4"], "prompt": [1, 2]}, "videos would add: leave them out"),
        ({"videos": ["clip.mp4"], "times_s": []}, "frames cannot stand beside videos"),
    ],
)
def test_a_line_whose_video_is_wrong_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(CLIP)
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": "When?"} | fields))
    with (
        open_prompts(tmp_path / "asked.jsonl", system=None, options=SHORT) as prompts,
        pytest.raises(InputError, match=f"line 1: .*{message}"),
    ):
        prompts.check()


def test_without_pyav_the_error_holds_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'pip install "neo-edge\[video\]"'):
        read_video(CLIP)
