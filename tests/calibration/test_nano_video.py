"""The shipped checkpoint asked about video files: the frame families, written as MP4, through the command line."""

from __future__ import annotations

import io
import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import neo_edge
from neo_edge.cli import main
from neo_edge.frame_sampling import FrameSampling
from neo_edge_calibration.evaluation import ask, scene_questions
from neo_edge_calibration.question import Question
from neo_edge_calibration.scoring import is_right

FAMILIES, SEED, COUNT = ["motion", "order", "when"], 20_261, 6
PER_SCENE_FRAME = 3  # frames of the file for each frame of the scene


def film(question: Question) -> bytes:
    """The scene's frames as H.264 of high quality, each shown until the next one's time."""
    assert question.times_s is not None
    step_s = question.times_s[1] - question.times_s[0]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        rate = Fraction(PER_SCENE_FRAME) / Fraction(step_s)
        stream = file.add_stream("libx264", rate=rate)
        width, height = question.images[0].size
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.options = {"crf": "8", "preset": "veryfast", "threads": "1"}
        for number, image in enumerate(image for image in question.images for _ in range(PER_SCENE_FRAME)):
            frame = av.VideoFrame.from_ndarray(np.asarray(image))
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def questions() -> list[Question]:
    return list(scene_questions(FAMILIES, SEED, COUNT))


def test_its_answers_hold_when_the_frames_come_from_a_file(exported_nano: Path) -> None:
    from_frames = from_file = same = 0
    asked = questions()
    with neo_edge.load(exported_nano, threads=1) as model:
        for question in asked:
            assert question.times_s is not None
            given = ask(model, question)
            sampling = FrameSampling("times", times_s=question.times_s)
            found = model.generate(question.prompt, videos=[film(question)], frame_sampling=sampling).text
            from_frames += is_right(question, given)
            from_file += is_right(question, found)
            same += is_right(question, given) == is_right(question, found)
    assert len(asked) == len(FAMILIES) * COUNT
    # The sentence about the whole video is new to half of the scenes, and the codec moves colours a little.
    assert from_file >= from_frames - 1
    assert same >= len(asked) - 2
    assert from_file >= 0.85 * len(asked)


def test_the_run_verb_answers_about_a_file(
    exported_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = next(question for question in questions() if question.family == "when")
    assert question.times_s is not None
    (tmp_path / "clip.mp4").write_bytes(film(question))
    times = ",".join(map(str, question.times_s))
    clip = str(tmp_path / "clip.mp4")
    arguments = ["run", str(exported_nano), "--video", clip, question.prompt, "--threads", "1", "--json"]
    assert main([*arguments, "--times", times]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert is_right(question, answer["text"]), answer
    asked_for: dict[tuple[str, ...], int] = {}
    for choice in (("--frames", "2"), ("--fps", "1"), ("--max-frames", "1")):
        assert main([*arguments, *choice]) == 0
        asked_for[choice] = json.loads(capsys.readouterr().out)["usage"]["visual_tokens"]
    one = asked_for["--max-frames", "1"]
    assert asked_for["--frames", "2"] == 2 * one
    assert asked_for["--fps", "1"] % one == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "missing.mp4"], "missing.mp4 cannot be read"),
        (["--frames", "3"], "--frames chooses frames of a video file, and there is none"),
        (["--video", "a.mp4", "--frames", "3", "--fps", "1"], "three ways to choose frames"),
        (["--video", "a.mp4", "--frames", "0"], "frames is 0"),
        (["--video", "a.mp4", "--times", "one"], "--times takes seconds with commas between"),
        (["--video", "a.mp4", "--frames", "3", "--max-frames", "2"], "max_frames bounds fps"),
    ],
)
def test_the_run_verb_refuses_with_a_cure(
    exported_nano: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(exported_nano), "When?", "--threads", "1", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_run_verb_names_the_missing_package(
    exported_nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    clip = str(tmp_path / "clip.mp4")
    assert main(["run", str(exported_nano), "When?", "--threads", "1", "--video", clip]) == 2
    assert 'pip install "neo-edge[video]"' in capsys.readouterr().err
