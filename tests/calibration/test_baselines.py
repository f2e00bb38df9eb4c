"""What guessing earns."""

from __future__ import annotations

import pytest
from PIL import Image

from neo_edge_calibration.baselines import best_constant, with_pictures_of_others
from neo_edge_calibration.question import Question


def question(answer: str, kind: str = "text", pictures: int = 1, **fields: object) -> Question:
    images = tuple(Image.new("RGB", (32, 32), (len(answer), pictures, 0)) for _ in range(pictures))
    return Question("f", kind, "?", answer, images, **fields)  # type: ignore[arg-type]


def test_the_most_frequent_answer_is_the_best_constant() -> None:
    assert best_constant([question(answer) for answer in "aabab"]) == pytest.approx(0.6)
    assert best_constant([]) == 0


def test_always_taking_the_same_option_counts_as_a_constant() -> None:
    options = [("ball", "cube"), ("star", "ring"), ("cone", "ball")]
    questions = [question(pair[1], "choice", choices=pair) for pair in options]
    assert best_constant(questions) == 1


def test_always_taking_the_same_frame_counts_as_a_constant() -> None:
    def at(step: float) -> Question:
        return question(f"00:{step:05.2f}", "time", pictures=5, times_s=tuple(step * i for i in range(5)))

    assert best_constant([at(0.5), at(2.0), at(4.0)]) == 1


def test_the_best_constant_box_is_one_that_overlaps_most() -> None:
    boxes = ("[[0, 0, 100, 100]]", "[[0, 0, 100, 90]]", "[[500, 500, 600, 600]]")
    assert best_constant([question(box, "box") for box in boxes]) == pytest.approx(2 / 3)


def test_every_question_gets_the_pictures_of_another_with_as_many() -> None:
    questions = [question("a"), question("bb", pictures=2), question("ccc"), question("dddd", pictures=2)]
    swapped = with_pictures_of_others(questions)
    assert [one.answer for one in swapped] == ["a", "bb", "ccc", "dddd"]
    assert [one.images for one in swapped] == [questions[index].images for index in (2, 3, 0, 1)]


def test_a_question_without_a_partner_is_left_out() -> None:
    assert with_pictures_of_others([question("a"), question("b", pictures=3)]) == []
