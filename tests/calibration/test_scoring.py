"""How answers are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_edge_calibration.question import Question
from neo_edge_calibration.scoring import all_boxes, first_box, iou, is_right, seconds
from neo_edge_runtime.answer_data import final_answer

WORD = Question("f", "text", "?", "red ball", ())
CHOICE = Question("f", "choice", "?", "B", (), choices=("the left", "the right"))
TIME = Question("f", "time", "?", "00:02.00", (), times_s=(0.0, 1.0, 2.0, 3.0))
BOX = Question("f", "box", "?", "[[100, 100, 300, 300]]", ())
NUMBER = Question("f", "number", "?", "3", ())


@pytest.mark.parametrize(
    ("question", "text", "right"),
    [
        (WORD, "steps first\nAnswer: Red  ball.", True),
        (WORD, "red ball", True),
        (WORD, "Answer: red", False),
        (WORD, "Answer: red ball\nAnswer: blue ball", False),
        (CHOICE, "Answer: B", True),
        (CHOICE, "(b)", True),
        (CHOICE, "B. the right", True),
        (CHOICE, "The right.", True),
        (CHOICE, "A", False),
        (CHOICE, "C", False),
        (CHOICE, "Both", False),
        (CHOICE, "", False),
        (TIME, "Answer: 00:02.00", True),
        (TIME, "Answer: 00:03.00", True),
        (TIME, "Answer: 00:01.00", True),
        (TIME, "Answer: 00:00.00", False),
        (TIME, "Answer: soon", False),
        (BOX, "<box>[[110, 100, 300, 310]]</box>", True),
        (BOX, "[[300, 300, 500, 500]]", False),
        (BOX, "[[100, 100, 300]]", False),
        (BOX, "nowhere", False),
        (NUMBER, "Answer: 3", True),
        (NUMBER, "3.", True),
        (NUMBER, "3.0", True),
        (NUMBER, "Answer: 13", False),
        (NUMBER, "three", False),
    ],
)
def test_an_answer_is_right_or_wrong(question: Question, text: str, right: bool) -> None:
    assert is_right(question, text) is right


def test_an_option_that_is_not_there_is_never_right() -> None:
    assert not is_right(replace(CHOICE, answer="Z"), "Z")


def test_the_last_answer_line_counts() -> None:
    assert final_answer("Answer: 1\nno, wait\nANSWER : 2 ") == "2"
    assert final_answer("  plain ") == "plain"


def test_boxes_may_have_decimals_and_signs() -> None:
    assert all_boxes("[[1, 2.5, -3, 4], [5,6,7,8]]") == [(1.0, 2.5, -3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    assert first_box("none") is None


def test_seconds_are_read_from_a_timestamp() -> None:
    assert seconds("at 01:02.50 or so") == 62.5
    assert seconds("later") is None


coordinates = st.tuples(*[st.floats(0, 1000)] * 4)


@given(coordinates, coordinates)
def test_iou_is_symmetric_and_between_zero_and_one(first: tuple, second: tuple) -> None:
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1 + 1e-9


def test_iou_of_a_half_overlap() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
