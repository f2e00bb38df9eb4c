"""Scenes: repeatable, fair, and true to what their answers say."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from neo_edge.prompt import timestamp
from neo_edge_calibration.scenes import FAMILIES, make_question
from neo_edge_calibration.scenes.arranging import MIN_THING_PX, SIDE_PX, random_scene
from neo_edge_calibration.scenes.drawing import COLOURS, Background, Place, Scene, Thing, paint
from neo_edge_calibration.scoring import all_boxes, is_right
from neo_edge_runtime.answer_data import final_answer


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seed_and_index_give_equal_pixels_and_words(family: str) -> None:
    first, again = make_question(family, 5, 3), make_question(family, 5, 3)
    assert (first.prompt, first.answer, first.response) == (again.prompt, again.answer, again.response)
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in again.images]
    other = make_question(family, 6, 3)
    assert [image.tobytes() for image in first.images] != [image.tobytes() for image in other.images]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_response_that_is_taught_is_scored_as_right(family: str) -> None:
    for index in range(30):
        question = make_question(family, 0, index)
        assert is_right(question, question.response), question


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_of_another_scene_is_mostly_wrong(family: str) -> None:
    questions = [make_question(family, 0, index) for index in range(60)]
    shifted = questions[1:] + questions[:1]
    right = sum(is_right(one, other.response) for one, other in zip(questions, shifted, strict=True))
    assert right <= 40


@pytest.mark.parametrize(
    "family", ["left_right", "above_below", "exists", "motion", "more", "robot_turn", "order"]
)
def test_few_answers_are_drawn_evenly(family: str) -> None:
    questions = [make_question(family, 1, index) for index in range(200)]
    drawn = Counter(q.choices.index(q.answer) if q.choices else q.answer for q in questions)
    assert max(drawn.values()) <= 1.35 * 200 / len(drawn)


def test_sizes_and_aspect_ratios_vary() -> None:
    images = [make_question("colour", 0, index).images[0] for index in range(120)]
    sides = [side for image in images for side in image.size]
    assert min(sides) < 110
    assert max(sides) > 280
    assert min(sides) >= SIDE_PX[0]
    assert max(sides) <= SIDE_PX[1]
    ratios = [image.width / image.height for image in images]
    assert min(ratios) < 0.5
    assert max(ratios) > 2


def test_things_neither_touch_nor_leave_the_picture() -> None:
    for seed in range(50):
        scene = random_scene(Random(seed), least=3)
        places = [thing.place for thing in scene.things]
        for index, place in enumerate(places):
            assert place.left >= 0
            assert place.left + place.width <= scene.width
            assert place.top >= 0
            assert place.top + place.height <= scene.height
            assert min(place.width, place.height) >= MIN_THING_PX
            assert all(place.apart(other, 1) for other in places[:index])


def test_a_painted_thing_fills_its_box_and_nothing_else() -> None:
    place = Place(30, 50, 40, 32)
    background = Background((120, 120, 120), (0, 0), 0)
    for shape in ("ball", "cube", "cone", "star", "ring"):
        scene = Scene(128, 160, (Thing("red", shape, place),))
        pixels = np.asarray(paint(scene, Random(0), background)).astype(int)
        rows, columns = np.nonzero(np.abs(pixels - 120).max(axis=2) > 20)
        edges = np.asarray([columns.min(), columns.max(), rows.min(), rows.max()])
        assert np.abs(edges - (30, 69, 50, 81)).max() <= 1, shape
        assert scene.box(scene.things[0]) == (230, 310, 550, 510)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_the_colour_that_its_name_says(colour: str) -> None:
    scene = Scene(96, 96, (Thing(colour, "cube", Place(20, 20, 40, 40)),))
    middle = np.asarray(paint(scene, Random(1)))[35:45, 35:45].reshape(-1, 3).mean(axis=0)
    nearest = min(COLOURS, key=lambda name: float(np.abs(middle - COLOURS[name]).sum()))
    assert nearest == colour


def test_nearest_is_the_thing_with_the_smallest_written_distance() -> None:
    for index in range(40):
        question = make_question("nearest", 2, index)
        rows = question.response.splitlines()[1:-1]
        distances = dict(row.split("</box> ")[1].rsplit(" ", 1) for row in rows)
        (named,) = (name for name, distance in distances.items() if distance == "itself")
        assert named in question.prompt
        assert set(distances) == {region.name for region in question.regions[0]}
        del distances[named]
        assert min(distances, key=lambda name: int(distances[name])) == question.answer


def test_counts_equal_the_boxes_that_are_listed() -> None:
    for index in range(60):
        question = make_question("count", 2, index)
        assert len(all_boxes(question.response)) == int(question.answer)


def test_a_moving_thing_moves_as_the_answer_says() -> None:
    for index in range(60):
        question = make_question("motion", 2, index)
        first, last = all_boxes(question.response)
        along = {
            "left": first[0] - last[0],
            "right": last[0] - first[0],
            "up": first[1] - last[1],
            "down": last[1] - first[1],
        }
        assert max(along, key=lambda name: along[name]) == question.answer


def test_videos_come_with_and_without_the_sentence_about_the_whole() -> None:
    told = [make_question("when", 0, index).fps is not None for index in range(60)]
    assert 10 < sum(told) < 50


def test_the_time_asked_for_is_the_time_of_a_frame() -> None:
    for index in range(40):
        question = make_question("when", 3, index)
        assert question.times_s is not None
        assert final_answer(question.response) in {timestamp(time) for time in question.times_s}
