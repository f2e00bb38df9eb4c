from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibration_bundle import folder_of_pictures

from neo_edge.bundle import open_bundle
from neo_edge.cli import main
from neo_edge.errors import CalibrationDataError
from neo_edge_calibration import Conversation, calibrate
from neo_edge_calibration.scenes import FAMILIES, make_question
from neo_edge_calibration.sources.folders import PROMPTS, VIDEO_PROMPTS
from neo_edge_calibration.sources.named import named_source


def _conversations(data: Path | str, count: int = 50, seed: int = 0) -> list[Conversation]:
    source = named_source(str(data), seed)
    made = []
    for make in source:
        if len(made) == count:
            break
        made.append(make())
    return made


def _jsonl(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def _said(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


def test_pictures_of_a_folder_are_asked_about_in_turn(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "shelf", 10)
    folder_of_pictures(folder / "more", 2)
    folder_of_pictures(folder / ".thumbnails", 2)
    (folder / "notes.txt").write_text("no picture")
    found = _conversations(folder)
    assert sorted(item.name for item in found) == sorted(
        [f"{index:02d}.png" for index in range(10)] + ["more/00.png", "more/01.png"]
    )
    assert [item.turns[0].question for item in found] == [*PROMPTS, *PROMPTS][:12]
    assert all(list(item.turns[0].images) == [folder / item.name] for item in found)
    names = [item.name for item in found]
    assert [item.name for item in _conversations(folder)] == names
    assert [item.name for item in _conversations(folder, seed=1)] != names


def test_videos_of_a_folder_are_asked_about_in_turn(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MKV", "c.webm"):
        (tmp_path / name).write_bytes(b"frames")
    found = _conversations(tmp_path)
    assert sorted(item.name for item in found) == ["a.mp4", "b.MKV", "c.webm"]
    assert [item.turns[0].question for item in found] == list(VIDEO_PROMPTS[:3])
    assert all(list(item.turns[0].videos) == [tmp_path / item.name] for item in found)


@pytest.mark.parametrize(("held", "shown"), [([], "nothing"), (["a.txt", "b.md"], "2 files of other kinds")])
def test_a_folder_of_nothing_to_see_is_an_error(tmp_path: Path, held: list[str], shown: str) -> None:
    for name in held:
        (tmp_path / name).write_text("text")
    with pytest.raises(CalibrationDataError, match=rf"holds {shown}, no pictures \(.bmp .*\) and no videos"):
        _conversations(tmp_path)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CalibrationDataError, match="gone' does not exist: give a folder of pictures or videos"
    ):
        _conversations(tmp_path / "gone")


def test_scenes_are_of_every_family_and_of_no_seed_that_evaluation_draws() -> None:
    found = _conversations("nano", 2 * len(FAMILIES))
    assert [item.name for item in found[: len(FAMILIES) + 1]] == [f"{name} 0" for name in FAMILIES] + [
        f"{next(iter(FAMILIES))} 1"
    ]
    turn = found[0].turns[0]
    assert turn.answer
    assert turn.question
    again = _conversations("nano", 1)[0].turns[0]
    assert again.images[0].tobytes() == turn.images[0].tobytes()
    for seed in ("train", 0):
        other = make_question("colour", seed, 0).images[0]
        assert (other.size, other.tobytes()) != (turn.images[0].size, turn.images[0].tobytes())
    video = found[list(FAMILIES).index("motion")].turns[0]
    assert video.frames is not None
    assert len(video.frames) > 1
    assert video.fps is not None


def test_conversations_of_a_file_keep_their_turns_pictures_and_answers(tmp_path: Path) -> None:
    lines = [
        {"id": 7, "image": "a.png", "conversations": _said("<image>\nWhat is this?", "A ball.")},
        {
            "image": ["a.png", "b.png", "c.png"],
            "conversations": [
                {"from": "system", "value": "Be brief."},
                *_said("<image><image>\nWhat differs?", "The colour.", "<image>\nAnd here?", "Nothing."),
            ],
        },
        {"image": ["a.png", "b.png"], "conversations": _said("What differs?", "The colour.", "Sure?")},
        {"conversations": _said("Hello. <image> is a word here.", "Hello.")},
        {
            "video": "v.mp4",
            "conversations": _said("<video>\nWhat happens?", "It rolls.", "When?", "00:01.00"),
        },
    ]
    path = _jsonl(tmp_path / "x.jsonl", *lines, "\n")
    found = sorted(_conversations(path), key=lambda item: item.name)
    assert [item.name for item in found] == [f"x.jsonl, line {number}" for number in range(1, 6)]
    one, several, placeless, text, video = found
    a, b, c = (tmp_path / f"{letter}.png" for letter in "abc")
    assert (one.turns[0].question, one.turns[0].answer) == ("<image>\nWhat is this?", "A ball.")
    assert [list(turn.images) for turn in one.turns] == [[a]]
    assert several.system == "Be brief."
    assert [list(turn.images) for turn in several.turns] == [[a, b], [c]]
    assert [turn.answer for turn in several.turns] == ["The colour.", "Nothing."]
    assert [list(turn.images) for turn in placeless.turns] == [[a, b], []]
    assert [turn.answer for turn in placeless.turns] == ["The colour.", None]
    assert [list(turn.images) for turn in text.turns] == [[]]
    assert [list(turn.videos) for turn in video.turns] == [[tmp_path / "v.mp4"], []]
    assert one.system is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json\n", "line 1: not JSON"),
        ('{"image": "\\ud800", "conversations": []}\n', "line 1: not JSON"),
        ("[1]\n", 'line 1: an object with "conversations", a list, is needed'),
        ({"image": "a.png"}, 'line 1: an object with "conversations"'),
        ({"conversations": []}, r"line 1: human and gpt must speak in turns, human first; found \[\]"),
        ({"conversations": [{"from": "gpt", "value": "Hi."}]}, r"human first; found \['assistant'\]"),
        ({"conversations": [{"from": "cat", "value": "Hi."}]}, 'line 1: each entry .* found {"from": "cat"'),
        ({"conversations": [{"from": "human", "value": 3}]}, "line 1: each entry of"),
        ({"image": 3, "conversations": _said("Hi.", "Hi.")}, 'line 1: "image" is a path, or a list'),
        ({"image": ["a", ""], "conversations": _said("Hi.", "Hi.")}, 'line 1: "image" is a path, or a list'),
        (
            {"image": "a", "video": "v", "conversations": _said("Hi.", "Hi.")},
            'line 1: "video" is one path, in the place of "image"',
        ),
        (
            {"image": ["a"], "conversations": _said("<image><image>", "Hi.")},
            "line 1: 2 times <image> for 1 images: write one for each, or none",
        ),
        ("\n", "holds no conversations"),
    ],
)
def test_a_line_that_is_no_conversation_is_an_error_with_its_number(
    tmp_path: Path, line: object, message: str
) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        named_source(str(_jsonl(tmp_path / "x.jsonl", line)), 0)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationDataError, match="x.jsonl cannot be read .* give a UTF-8 file"):
        named_source(str(tmp_path / "x.jsonl"), 0)


def test_a_file_of_conversations_calibrates(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_pictures(tmp_path / "shelf")
    lines = [
        {"image": f"{index:02d}.png", "conversations": _said("<image>\nWhat is this?", "A ball.")}
        for index in range(8)
    ]
    lines[2]["image"] = "gone.png"
    lines.append({"conversations": _said("How are you?", "Well.")})
    path = _jsonl(folder / "said.jsonl", *lines)
    assert main(["calibrate", str(nano), "--data", str(path), "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["source"], report["reused"]) == (
        8,
        "conversations of said.jsonl",
        False,
    )
    assert len(report["skipped"]) == 1
    assert "gone.png cannot be read" in report["skipped"][0]
    assert report["file"] == open_bundle(nano).manifest.calibrations["default"].file
    assert (
        report["ranges"].keys()
        == calibrate(nano, named_source(str(path), 0), threads=1).statistics.groups.keys()
    )
    assert min(report["ranges"].values()) > 0


def _video(path: Path, index: int) -> None:
    av = pytest.importorskip("av")
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(20):
            picture = np.full((96, 128, 3), 30, np.uint8)
            left = 4 * number + index
            picture[20:60, left : left + 30] = (200, 40, 10 * index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_a_folder_of_videos_calibrates_and_a_broken_one_is_skipped(nano: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(8):
        _video(folder / f"{index}.mp4", index)
    (folder / "broken.mp4").write_bytes(b"no video")
    result = calibrate(nano, named_source(str(folder), 0), threads=1)
    assert result.statistics.samples == 8
    assert result.statistics.source == "videos in videos"
    assert len(result.skipped) == 1
    assert "broken.mp4" in result.skipped[0]
    # 8 frames of 96x128 pixels each: 12 visual tokens of 4 patches.
    assert result.statistics.groups["vision.patches"].rows_seen == 8 * 8 * 12 * 4
