"""Boxes, points, numbers and choices in what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neo_edge.errors import AnswerError, ConstraintError, InputError
from neo_edge_runtime import (
    Box,
    Choices,
    CoordinateScale,
    Point,
    parse_boxes,
    parse_choice,
    parse_number,
    parse_points,
)
from neo_edge_runtime.answer_data import final_answer, number_lists
from neo_edge_runtime.coordinates import picture_size

SIZE = (200, 100)  # width, height
NANO = (
    "<ref>orange star</ref><box>[[610, 460, 840, 700]]</box>\n<box>[[60, 720, 290, 960]]</box> green star 41\n"
    "Answer: green star"
)


def test_thousandths_become_pixels_of_the_picture() -> None:
    assert parse_boxes("[[100, 200, 500, 1000]]", SIZE) == (Box(20, 20, 100, 100),)
    (box,) = parse_boxes("[[100, 200, 500, 1000]]", SIZE)
    assert (box.width, box.height, box.centre) == (80, 80, Point(60, 60))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[0, 0, 10, 10]", [None]),
        ("(0, 0, 10, 10)", [None]),
        ("[[0,0,10,10],[20,20,30,30]]", [None, None]),
        ("<ref>a cube</ref><box>[[0, 0, 10, 10], [20, 20, 30, 30]]</box>", ["a cube", "a cube"]),
        ("<ref>a</ref><box>[[0, 0, 1, 1]]</box><ref>b</ref> <box>[[0, 0, 1, 1]]</box>", ["a", "b"]),
        ("<ref>a</ref> is at <box>[[0, 0, 1, 1]]</box>", [None]),
        ("red ball[[0, 0, 10, 10]]\nblue cube[[0, 0, 1, 1], [1, 1, 2, 2]]", ["red ball", "blue cube", "blue cube"]),
        ("The ball is at [[0, 0, 10, 10]].", [None]),
        ("Box:[[0, 0, 10, 10]]", [None]),
        ('{"box": [0, 0, 10, 10], "label": "x"}', [None]),
        (NANO, ["orange star", None]),
        ("<ref></ref><box>[[0, 0, 1, 1]]</box>", [None]),
    ],
)  # fmt: skip
def test_a_box_has_the_label_in_front_of_its_list(text: str, labels: list[str | None]) -> None:
    assert [box.label for box in parse_boxes(text, SIZE)] == labels


@pytest.mark.parametrize(
    "text", ["<box>[]</box>", "[]", "<ref>ball</ref><box>[]</box>\nAnswer: 0", "Answer: []"]
)
def test_an_empty_list_is_an_answer_without_boxes(text: str) -> None:
    assert parse_boxes(text, SIZE) == ()
    assert parse_points(text, SIZE) == ()


def test_half_written_brackets_are_passed_over() -> None:
    text = "<ref>ball</ref><box>[[100, 100, 200, 200], [300, 300, 400, 400]]</box>"
    counts = []
    for end in range(len(text) + 1):
        try:
            counts.append(len(parse_boxes(text[:end], SIZE)))
        except AnswerError:
            counts.append(0)
    assert counts == sorted(counts)
    assert counts[text.index("]") : text.index("]") + 2] == [0, 1]
    assert counts[-1] == 2


def test_what_stands_behind_the_last_answer_counts() -> None:
    text = "[[0, 0, 100, 100]] Answer: [[0, 0, 10, 10]]\nNo, answer: [[0, 0, 500, 500]]"
    assert parse_boxes(text, (1000, 1000)) == (Box(0, 0, 500, 500),)
    assert len(parse_boxes("[[0, 0, 100, 100]] Answer: left", SIZE)) == 1
    assert final_answer("Answer: a\nAnswer:  b \nc") == "b"
    assert final_answer(" plain ") == "plain"


def test_corners_are_put_in_order_and_kept_within_the_picture() -> None:
    assert parse_boxes("[[900, 1200, -50, 100]]", SIZE) == (Box(0, 10, 180, 100),)


def test_points_are_pairs_and_boxes_are_none() -> None:
    assert parse_points("(500, 250) and [[0, 1000]]", SIZE) == (Point(100, 25), Point(0, 100))
    assert parse_points("<ref>tip</ref>[[500, 500]]", SIZE) == (Point(100, 50, "tip"),)
    with pytest.raises(AnswerError, match=r"holds no point such as \[\[x, y\]\]"):
        parse_points("[[0, 0, 10, 10]]", SIZE)


def test_another_scale_is_stated() -> None:
    assert parse_boxes("[0.25, 0.5, 0.5, 1.0]", SIZE, scale=CoordinateScale(1, 1)) == (Box(50, 50, 100, 100),)
    assert parse_points("[50, 60]", SIZE, scale=CoordinateScale(*SIZE)) == (Point(50, 60),)
    assert CoordinateScale(1000, 1000).box([0, 0, 500, 500], SIZE, "ball") == Box(0, 0, 100, 50, "ball")
    for edge in (0, -1, float("nan"), float("inf"), 10**400):
        with pytest.raises(InputError, match="both must be above zero"):
            CoordinateScale(edge, 1)
    for numbers in ([1, 2, 3], [1, 2, 3, float("nan")], [1, 2, 3, 10**400], [1, 2, 3, "4"]):
        with pytest.raises(InputError, match="4 finite numbers are needed"):
            CoordinateScale(1, 1).box(numbers, SIZE)  # type: ignore[arg-type]


def test_a_picture_is_its_size_an_array_or_an_image_seen_upright() -> None:
    turned = Image.new("RGB", (100, 200))
    turned.getexif()[0x0112] = 6
    for picture in (
        SIZE,
        np.zeros((100, 200, 3), np.uint8),
        np.zeros((100, 200)),
        Image.new("L", SIZE),
        turned,
    ):
        assert picture_size(picture) == SIZE
    for wrong in ((0, 1), (1, 2, 3), (1.5, 2), "photo.png", None, np.zeros(3)):
        with pytest.raises(InputError, match="a picture is .*; pass its"):
            parse_boxes("[[0, 0, 1, 1]]", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("3.", 3),
        ("-2.5", -2.5),
        ("Answer: 4", 4),
        ("I see 3 balls and 2 cubes. Answer: 5", 5),
        ("Image-1: two\nAnswer: 12", 12),
        ("about 4.25 metres", 4.25),
        ("It costs 1,250,000.50 in all", 1250000.5),
        ("50%", 50),
        ("3 of 3", 3),
        ("<box>[[10, 20, 30, 40]]</box> 7", 7),
        ("2 things\nAnswer: two", 2),
    ],
)
def test_the_one_number_is_found(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "three", "Image-1", "v2", "2nd", "10-20", "[[1, 2]]", "1.2.3", "12:30x"]
)
def test_what_is_no_number_of_its_own_is_none(text: str) -> None:
    with pytest.raises(AnswerError, match="holds no number"):
        parse_number(text)


def test_several_numbers_are_refused() -> None:
    with pytest.raises(AnswerError, match="the answer '2 of 5' has 2 numbers, and one was looked for"):
        parse_number("2 of 5")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("red", "red"),
        ("Red Ball.", "red ball"),
        ("  red   ball ", "red ball"),
        ("Answer: grün", "grün"),
        ("the red ball, I think", "red ball"),
        ("red\nAnswer: GRÜN", "grün"),
        ("B", "red ball"),
        ("(c)", "grün"),
        ("A. red", "red"),
        ("It is redder than grün", "grün"),
    ],
)
def test_a_choice_is_named_by_its_words_or_its_letter(text: str, choice: str) -> None:
    assert parse_choice(text, ["red", "red ball", "grün"]) == choice
    assert parse_choice(text, Choices(["red", "red ball", "grün"])) == choice


def test_a_choice_letter_for_letter_comes_before_one_in_other_letters() -> None:
    assert [parse_choice(f"Answer: {text} ", ["Yes", "yes", "YES."]) for text in ("yes", "YES.", "YES")] == [
        "yes",
        "YES.",
        "Yes",
    ]
    assert parse_choice("...", ["yes", "..."]) == "..."
    with pytest.raises(AnswerError, match="holds no choice"):
        parse_choice("maybe", ["yes", "..."])


def test_no_choice_or_two_are_refused() -> None:
    for text in ("", "blue", "D", "reddish"):
        with pytest.raises(AnswerError, match=r"holds no choice of \['red', 'blue sky'\]"):
            parse_choice(text, ["red", "blue sky"])
    with pytest.raises(AnswerError, match="names 2 of the choices"):
        parse_choice("red or blue", ["red", "blue"])
    with pytest.raises(ConstraintError, match="there are no choices"):
        parse_choice("red", [])


def test_a_message_has_the_answer_and_not_pages_of_it() -> None:
    with pytest.raises(
        AnswerError, match=re.escape("the answer 'No idea.' holds no box such as [[x1, y1, x2, y2]]")
    ):
        parse_boxes("No idea.", SIZE)
    with pytest.raises(AnswerError) as error:
        parse_boxes("x" * 100_000, SIZE)
    assert len(str(error.value)) < 200


def test_a_page_of_blanks_holds_no_box() -> None:
    for text in (" " * 200_000 + "x", "[" + "\n" * 200_000 + "x", "<box>" + " " * 200_000):
        with pytest.raises(AnswerError, match="holds no box"):
            parse_boxes(text, SIZE)


def test_lists_of_numbers_are_as_written() -> None:
    assert number_lists("[[1, 2.5], [3, -4]] [1, 2, 3]", 2) == [(1, 2.5), (3, -4)]
    assert number_lists("[[1, 2.5], [3, -4]] [1, 2, 3]", 3) == [(1, 2, 3)]


MARKS = ["[", "]", "(", ")", ", ", "0", "17", "1000", "-", ".", "<ref>", "</ref>", "<box>", "</box>"]
PIECES = st.sampled_from([*MARKS, "Answer: ", "\n", "é "])
PARSERS: tuple[Callable[[str], object], ...] = (
    lambda text: parse_boxes(text, SIZE),
    lambda text: parse_points(text, SIZE),
    parse_number,
    lambda text: parse_choice(text, ["17", "é"]),
)


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=60))
def test_any_text_is_read_or_refused_and_boxes_lie_within_the_picture(text: str) -> None:
    for parser in PARSERS:
        with suppress(AnswerError):
            parser(text)
    try:
        boxes = parse_boxes(text, SIZE)
    except AnswerError:
        return
    assert all(0 <= box.x1 <= box.x2 <= 200 and 0 <= box.y1 <= box.y2 <= 100 for box in boxes)


@pytest.mark.parametrize(
    "before",
    ["[" * 50_000, "1," * 50_000, "<ref>" * 30_000, "a" * 100_000, "[" + " " * 50_000, "answer:" * 10_000],
)
def test_a_box_behind_a_page_of_nonsense_is_found(before: str) -> None:
    boxes = parse_boxes(before + "] [[0, 0, 100, 100]]", SIZE)
    assert boxes == (Box(0, 0, 20, 10),)
