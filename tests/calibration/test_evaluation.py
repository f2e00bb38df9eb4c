"""Asking many questions: counting, and keeping no pictures."""

from __future__ import annotations

import gc
import weakref

import pytest
from PIL import Image

from neo_edge.cli import main
from neo_edge_calibration.evaluation import evaluate, scene_questions
from neo_edge_calibration.question import Question, Questions


class Parrot:
    """Answers every question with the same word."""

    def generate(self, *_: object, **__: object) -> object:
        return type("Completion", (), {"text": "red"})()


def test_right_answers_are_counted_by_family() -> None:
    picture = Image.new("RGB", (32, 32))
    rows = [("colour", "red"), ("colour", "blue"), ("shade", "red")]
    questions = [Question(family, "text", "?", answer, (picture,)) for family, answer in rows]
    scores = evaluate(Parrot(), questions)  # type: ignore[arg-type]
    assert {name: (score.accuracy, score.count) for name, score in scores.items()} == {
        "colour": (0.5, 2),
        "shade": (1.0, 1),
    }


def test_questions_are_made_one_by_one_and_their_pictures_are_let_go() -> None:
    pictures: list[weakref.ref[Image.Image]] = []
    alive: list[int] = []

    def make() -> Question:
        gc.collect()
        alive.append(sum(picture() is not None for picture in pictures))
        image = Image.new("RGB", (32, 32))
        pictures.append(weakref.ref(image))
        return Question("colour", "text", "?", "red", (image,))

    questions = Questions([make] * 6)
    assert (len(questions), alive) == (6, [])
    assert evaluate(Parrot(), questions)["colour"].count == 6  # type: ignore[arg-type]
    assert max(alive) <= 1


def test_scene_questions_are_counted_before_any_is_drawn() -> None:
    questions = scene_questions(["colour", "when"], 7, 1000)
    assert len(questions) == 2000
    assert next(iter(questions)) == next(iter(questions))


def test_swapping_pictures_needs_two_questions(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--family", "box", "--count", "1", "--swap-images"]
    assert main(["eval", "x.bundle", *arguments]) == 1
    assert "needs two questions" in capsys.readouterr().err
