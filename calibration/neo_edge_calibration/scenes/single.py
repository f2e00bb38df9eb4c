"""Questions about one picture. Every answer is drawn first, so that guessing earns what chance gives."""

from __future__ import annotations

import math
from random import Random

from neo_edge_calibration.question import Kind, Question
from neo_edge_calibration.scenes.arranging import (
    capacity,
    names,
    picture_size,
    random_scene,
    scene_of,
    until,
)
from neo_edge_calibration.scenes.drawing import COLOURS, SHAPES, Scene, Thing, paint
from neo_edge_calibration.scenes.wording import answered, box_text, boxes, grounded

RELATION_MARGIN = 0.12  # of the picture's side, between the centres of two things that are compared
NEAREST_RATIO = 0.7  # the nearest thing is at most this far, relative to the next one
LARGEST_RATIO = 1.5  # area of the largest thing over the next one's
AHEAD = (0.42, 0.58)  # a thing whose centre is between these parts of the width is ahead
ASIDE = (0.36, 0.64)  # outside these it is to the left or right; nothing is asked in between


def colour(rng: Random) -> Question:
    """Names the colour of the only thing of its shape."""
    scene = until(lambda: _unique_attribute(rng, "shape"))
    target = _pick_unique(rng, scene, "shape")
    prompt = rng.choice(
        (
            "What colour is the {}?",
            "Which colour does the {} have?",
            "Name the colour of the {}.",
            "The {} in the picture: what colour is it?",
        )
    ).format(target.shape)
    response = answered(grounded(target.shape, scene, target), target.colour)
    return _question("colour", rng, scene, prompt, target.colour, response)


def shape(rng: Random) -> Question:
    """Names the shape of the only thing of its colour."""
    scene = until(lambda: _unique_attribute(rng, "colour"))
    target = _pick_unique(rng, scene, "colour")
    prompt = rng.choice(
        (
            "What shape is the {} object?",
            "Which shape does the {} thing have?",
            "What is the {} object?",
            "Name the shape of the {} object.",
        )
    ).format(target.colour)
    response = answered(grounded(f"{target.colour} object", scene, target), target.shape)
    return _question("shape", rng, scene, prompt, target.shape, response)


def count(rng: Random) -> Question:
    """Counts all things, or those of a colour or a shape."""
    width, height = picture_size(rng)
    most = capacity(width, height)
    wanted = rng.randint(0, most)
    scene, matching, what = counted_scene(rng, width, height, wanted, most)
    prompt = rng.choice(
        ("How many {} are there?", "Count the {}.", "How many {} do you see?", "What is the number of {}?")
    ).format(what)
    response = answered(f"<ref>{what}</ref>{boxes(scene, matching)}", str(wanted))
    return _question("count", rng, scene, prompt, str(wanted), response, kind="number")


def counted_scene(
    rng: Random, width: int, height: int, wanted: int, most: int, what: str | None = None
) -> tuple[Scene, list[Thing], str]:
    """A scene in which exactly `wanted` things match, those things, and the words for them."""
    if what is None:
        what = countable(rng)
    total = wanted if what == "objects" else rng.randint(wanted, most)
    kinds = [_kind_like(rng, what) for _ in range(wanted)] + [
        _kind_unlike(rng, what) for _ in range(total - wanted)
    ]
    rng.shuffle(kinds)
    scene = scene_of(rng, kinds, width, height)
    return scene, [thing for thing in scene.things if _matches(thing.colour, thing.shape, what)], what


def countable(rng: Random) -> str:
    """`objects`, `red objects` or `balls`."""
    return rng.choice(("objects", f"{rng.choice(list(COLOURS))} objects", f"{rng.choice(SHAPES)}s"))


def left_right(rng: Random) -> Question:
    """Compares two things from left to right."""
    return _relation(rng, axis=0, answers=("left", "right"), family="left_right")


def above_below(rng: Random) -> Question:
    """Compares two things from top to bottom."""
    return _relation(rng, axis=1, answers=("above", "below"), family="above_below")


def nearest(rng: Random) -> Question:
    """Finds the thing nearest to a named one, by the distance of the centres in pixels."""

    def attempt() -> tuple[Scene, Thing, list[Thing]] | None:
        scene = random_scene(rng, least=3, most=5)
        first, *others = scene.things
        others.sort(key=lambda other: first.place.distance(other.place))
        near, next_near = (first.place.distance(other.place) for other in others[:2])
        return (scene, first, others) if near <= NEAREST_RATIO * next_near else None

    scene, target, others = until(attempt)
    prompt = rng.choice(
        (
            "Which object is nearest to the {}?",
            "What is closest to the {}?",
            "Which object is the {}'s nearest neighbour?",
            "Find the object nearest to the {}.",
        )
    ).format(target.name)
    diagonal = math.hypot(scene.width, scene.height)
    left_to_right = sorted(scene.things, key=lambda thing: (thing.place.left, thing.place.top))
    # All are listed, also the named one: leaving one out of a list proved harder to learn than skipping its line.
    rows = [
        (thing, "itself" if thing is target else round(100 * target.place.distance(thing.place) / diagonal))
        for thing in left_to_right
    ]
    steps = grounded(target.name, scene, target) + "".join(
        f"\n{boxes(scene, [thing])} {thing.name} {distance}" for thing, distance in rows
    )
    return _question("nearest", rng, scene, prompt, others[0].name, answered(steps, others[0].name))


def box(rng: Random) -> Question:
    """Gives the bounding box of a named thing."""
    scene = random_scene(rng, least=2)
    target = rng.choice(scene.things)
    prompt = rng.choice(
        (
            "Give the bounding box of the {}.",
            "Where is the {}? Answer with its bounding box.",
            "Locate the {}.",
            "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>",
        )
    ).format(target.name)
    answer = f"[{box_text(scene.box(target))}]"
    return _question("box", rng, scene, prompt, answer, grounded(target.name, scene, target), kind="box")


def exists(rng: Random) -> Question:
    """Says whether a thing is there, beside others of its colour or shape."""
    width, height = picture_size(rng)
    kinds = names(rng, rng.randint(2, capacity(width, height)))
    colour_name, shape_name = kinds[0]
    present = rng.random() < 0.5
    if not present:
        other_shape = rng.choice([name for name in SHAPES if name != shape_name])
        other_colour = rng.choice([name for name in COLOURS if name != colour_name])
        kinds[0] = (colour_name, other_shape)
        if rng.random() < 0.5 and (other_colour, shape_name) not in kinds:
            kinds[1] = (other_colour, shape_name)
    rng.shuffle(kinds)
    scene = scene_of(rng, kinds, width, height)
    name = f"{colour_name} {shape_name}"
    found = [thing for thing in scene.things if thing.name == name]
    prompt = rng.choice(
        (
            "Is there a {}?",
            "Does the picture show a {}?",
            "Do you see a {}?",
            "Is a {} in the picture?",
        )
    ).format(name)
    answer = "yes" if found else "no"
    return _question(
        "exists", rng, scene, prompt, answer, answered(f"<ref>{name}</ref>{boxes(scene, found)}", answer)
    )


def largest(rng: Random) -> Question:
    """Finds the thing with the largest area."""

    def attempt() -> tuple[Scene, Thing] | None:
        scene = random_scene(rng, least=2, most=4)
        by_area = sorted(scene.things, key=lambda thing: -thing.place.area)
        return (scene, by_area[0]) if by_area[0].place.area >= LARGEST_RATIO * by_area[1].place.area else None

    scene, target = until(attempt)
    prompt = rng.choice(
        (
            "Which object is the largest?",
            "What is the biggest object?",
            "Name the largest object in the picture.",
        )
    )
    return _question(
        "largest",
        rng,
        scene,
        prompt,
        target.name,
        answered(grounded(target.name, scene, target), target.name),
    )


def robot_turn(rng: Random) -> Question:
    """Tells a robot whose camera sees the picture where to turn."""
    answer = rng.choice(("turn left", "go ahead", "turn right"))

    def attempt() -> tuple[Scene, Thing] | None:
        scene = random_scene(rng, least=1)
        target = rng.choice(scene.things)
        part = target.place.centre[0] / scene.width
        fits = {
            "turn left": part < ASIDE[0],
            "go ahead": AHEAD[0] < part < AHEAD[1],
            "turn right": part > ASIDE[1],
        }
        return (scene, target) if fits[answer] else None

    scene, target = until(attempt)
    prompt = rng.choice(
        (
            "Turn left, turn right or go ahead to face the {}?",
            "You are a robot. To reach the {}, do you turn left, turn right or go ahead?",
            "This is the robot's camera. Should it turn left, turn right or go ahead to get to the {}?",
        )
    ).format(target.name)
    return _question(
        "robot_turn", rng, scene, prompt, answer, answered(grounded(target.name, scene, target), answer)
    )


def _relation(rng: Random, axis: int, answers: tuple[str, str], family: str) -> Question:
    answer = rng.choice(answers)

    def attempt() -> tuple[Scene, Thing, Thing] | None:
        scene = random_scene(rng, least=2)
        first, second = rng.sample(scene.things, 2)
        side = (scene.width, scene.height)[axis]
        ahead = (second.place.centre[axis] - first.place.centre[axis]) / side
        if answer == answers[1]:
            ahead = -ahead
        return (scene, first, second) if ahead >= RELATION_MARGIN else None

    scene, first, second = until(attempt)
    phrases = (
        (
            "Is the {} to the left or to the right of the {}?",
            "Left or right: where is the {}, seen from the {}?",
            "On which side of the {1} is the {0}, left or right?",
        )
        if axis == 0
        else (
            "Is the {} above or below the {}?",
            "Above or below: where is the {}, seen from the {}?",
            "Does the {} lie above or below the {}?",
        )
    )
    prompt = rng.choice(phrases).format(first.name, second.name)
    steps = grounded(first.name, scene, first) + grounded(second.name, scene, second)
    return _question(family, rng, scene, prompt, answer, answered(steps, answer))


def _unique_attribute(rng: Random, attribute: str) -> Scene | None:
    scene = random_scene(rng, least=2)
    values = [getattr(thing, attribute) for thing in scene.things]
    return scene if any(values.count(value) == 1 for value in values) else None


def _pick_unique(rng: Random, scene: Scene, attribute: str) -> Thing:
    values = [getattr(thing, attribute) for thing in scene.things]
    return rng.choice([thing for thing in scene.things if values.count(getattr(thing, attribute)) == 1])


def _matches(colour_name: str, shape_name: str, what: str) -> bool:
    return what == "objects" or what == f"{colour_name} objects" or what == f"{shape_name}s"


def _kind_like(rng: Random, what: str) -> tuple[str, str]:
    return until(lambda: _kind_if(rng, what, True))


def _kind_unlike(rng: Random, what: str) -> tuple[str, str]:
    return until(lambda: _kind_if(rng, what, False))


def _kind_if(rng: Random, what: str, matching: bool) -> tuple[str, str] | None:
    kind = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    return kind if _matches(*kind, what) == matching else None


def _question(
    family: str,
    rng: Random,
    scene: Scene,
    prompt: str,
    answer: str,
    response: str,
    *,
    kind: Kind = "text",
) -> Question:
    return Question(
        family, kind, prompt, answer, (paint(scene, rng),), response=response, regions=(scene.regions(),)
    )
