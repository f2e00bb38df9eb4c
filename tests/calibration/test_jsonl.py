"""Questions of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from neo_edge.errors import ImageError, InputError
from neo_edge_calibration.jsonl import read_questions
from neo_edge_calibration.scoring import is_right

GOOD = {"question": "How many?", "kind": "number", "answer": "3", "images": ["a.png"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("L", (40, 30), 90).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_questions_are_read_with_their_pictures(folder: Path) -> None:
    choice = GOOD | {"kind": "choice", "choices": ["left", "right"], "answer": "B", "family": "sides"}
    video = GOOD | {"images": ["a.png", "a.png"], "times_s": [0, 0.5], "duration_s": 1, "fps": 2}
    first, second, third = read_questions(write(folder, GOOD, "", choice, video))
    assert (first.family, first.kind, first.prompt, first.images[0].size) == (
        "number",
        "number",
        "How many?",
        (40, 30),
    )
    assert first.images[0].mode == "RGB"
    assert second.family == "sides"
    assert "\nA. left\nB. right\nAnswer with the option's letter" in second.prompt
    assert is_right(second, "B")
    assert is_right(second, "right")
    assert not is_right(second, "A")
    assert third.times_s == (0.0, 0.5)
    assert third.duration_s == 1.0
    assert third.fps == 2.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "an object with question, kind and answer is needed"),
        ({"question": "?"}, "an object with question, kind and answer is needed"),
        (GOOD | {"colour": 1}, "colour"),
        (GOOD | {"kind": "guess"}, "use one of choice, number"),
        (GOOD | {"choices": ["a"]}, "only a choice has them"),
        (GOOD | {"kind": "choice"}, "a choice needs 1 to 26"),
        (GOOD | {"answer": 3}, "answer is 3; write it as text"),
        (GOOD | {"images": "a.png"}, "write a list of texts"),
        (GOOD | {"times_s": [1, 2]}, "one number of seconds for each of the 1 images"),
        (GOOD | {"kind": "time"}, "needs times_s"),
        (GOOD | {"fps": "2"}, "write a number"),
    ],
)
def test_a_line_that_is_no_question_is_refused_with_its_number(
    folder: Path, row: object, message: str
) -> None:
    with pytest.raises(InputError, match="line 1") as caught:
        list(read_questions(write(folder, row)))
    assert message in str(caught.value)


def test_pictures_are_seen_as_the_runtime_sees_them_and_only_when_asked_for(folder: Path) -> None:
    Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(folder / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 20)).save(folder / "turned.jpg", exif=turned)
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    rows = [GOOD | {"images": ["clear.png", "turned.jpg"]}, GOOD | {"images": ["cut.png"]}]
    questions = read_questions(write(folder, *rows))
    assert len(questions) == 2
    asked = iter(questions)
    clear, upright = next(asked).images
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert upright.size == (20, 40)
    with pytest.raises(ImageError, match=r"line 2: .*cut\.png cannot be read"):
        next(asked)


def test_lines_end_where_json_lines_end_and_a_byte_order_mark_is_no_part_of_them(folder: Path) -> None:
    path = folder / "questions.jsonl"
    row = json.dumps(GOOD | {"question": "one\u2028two\x85three"}, ensure_ascii=False)
    path.write_text(f"{row}\r\n{row}\r\n", encoding="utf-8-sig")
    assert [question.prompt for question in read_questions(path)] == ["one\u2028two\x85three"] * 2


@pytest.mark.parametrize("name", ["missing.png", "text.png"])
def test_a_picture_that_cannot_be_read_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ImageError, match=name):
        list(read_questions(write(folder, GOOD | {"images": [name]})))


def test_an_empty_or_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no questions"):
        list(read_questions(write(folder, "")))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_questions(folder / "nothing.jsonl"))
