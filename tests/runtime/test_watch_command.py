"""`neo-edge watch`: frames of a source in, an answer every few seconds out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from live_sources import grey
from PIL import Image
from video_files import numbered_picture, video

from neo_edge import cli

SHORT = ["--max-new-tokens", "3", "--threads", "1"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(grey(40 * number, (64, 48))).save(folder / f"{number}.png")
    return folder


def test_it_asks_until_the_source_has_ended_and_once_more(
    tiny_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--source",
        str(pictures),
        "--rate",
        "5",
        "--every",
        "0s",
        "--ask-every",
        "0.4",
        "--json",
        *SHORT,
    ]
    assert cli.main(["watch", str(tiny_bundle), "what?", *arguments]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) >= 2
    assert all(answer["usage"]["completion_tokens"] <= 3 for answer in answers)
    times = [answer["time_s"] for answer in answers]
    assert times == sorted(times)
    assert f"{pictures} gives frames of 64x48\n" in err
    assert f"{pictures} has ended\n" in err


def test_a_video_file_is_watched_and_answers_have_their_time(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(video([numbered_picture(number) for number in range(4)], rate=10))
    arguments = ["--source", str(tmp_path / "clip.mp4"), "--ask-every", "9", *SHORT]
    assert cli.main(["watch", str(tiny_bundle), "what?", *arguments]) == 0
    assert capsys.readouterr().out.startswith("00:0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "none.mp4"], "give a path that exists"),
        (["--source", "/dev/video99"], "/dev/video99 cannot be opened"),
        (["--source", "/dev/video99", "--option", "x"], "--option x is no NAME=VALUE"),
        (["--source", "/dev/video99", "--rate", "5"], "a stream has a rate of its own"),
        (["--source", "/dev/video99", "--ask-every", "0"], "--ask-every is 0; it must be above 0 seconds"),
        (["--source", "/dev/video99", "--every", "soon"], "every is 'soon'"),
        (["--source", "/dev/video99", "--max-frames", "0"], "max_frames is 0"),
    ],
)
def test_what_cannot_be_watched_ends_with_status_1_and_the_cure(
    tiny_bundle: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", str(tiny_bundle), "what?", *arguments, *SHORT]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert words in line
