"""Questions about several pictures, and about the frames of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from neo_edge.prompt import timestamp
from neo_edge_calibration.question import Kind, Question
from neo_edge_calibration.scenes.arranging import names, picture_size, place, places, scene_of, until
from neo_edge_calibration.scenes.drawing import Background, Place, Scene, Thing, paint
from neo_edge_calibration.scenes.single import countable, counted_scene
from neo_edge_calibration.scenes.wording import answered, boxes, grounded

PICTURE_SIDE_PX = (96, 192)  # of one of several pictures
COUNTED_SIDE_PX = (144, 208)  # of a picture whose things are counted
FRAME_SIDE_PX = (96, 176)  # of a video's frame
TRAVEL = 0.34  # part of the side that a moving thing crosses, at least
FRAME_RATES = (0.5, 1.0, 2.0, 4.0)  # frames a second
PREFIX_SHARE = 0.5  # of the videos whose length and rate are told


def differs(rng: Random) -> Question:
    """Finds the picture whose thing is unlike the thing of all others."""
    count = rng.choice((3, 4))
    odd = rng.randrange(count)
    common, other = names(rng, 2)
    if rng.random() < 0.6:  # differ in one property only
        other = (common[0], other[1]) if rng.random() < 0.5 else (other[0], common[1])
    if other == common:
        return differs(rng)
    scenes = [
        scene_of(rng, [other if index == odd else common], *picture_size(rng, *PICTURE_SIDE_PX))
        for index in range(count)
    ]
    prompt = rng.choice(
        (
            "Which image is different?",
            "Which image shows something different from the others?",
            "All images but one show the same object. Which one differs?",
        )
    )
    first, *rest = (scene.things[0].name for scene in scenes)
    steps = f"Image-1: {first}" + "".join(
        f"\nImage-{index}: {name}, {'same' if name == first else 'other'}"
        for index, name in enumerate(rest, 2)
    )
    return _pictures("differs", rng, scenes, prompt, str(odd + 1), answered(steps, str(odd + 1)))


def more(rng: Random) -> Question:
    """Finds the picture with more things, or more of a colour or shape."""
    what = countable(rng)
    least = 1 if what == "objects" else 0
    first, second = until(lambda: _two_numbers(rng, least, 3))
    scenes, lines = [], []
    for index, wanted in enumerate((first, second), 1):
        size = picture_size(rng, *COUNTED_SIDE_PX)
        scene, matching, _ = counted_scene(rng, *size, wanted, 3, what)
        scenes.append(scene)
        lines.append(f"Image-{index}: {boxes(scene, matching)} {wanted}")
    prompt = rng.choice(
        (
            "Which image has more {}?",
            "In which image are there more {}?",
            "Compare the images: which one shows more {}?",
        )
    ).format(what)
    answer = "1" if first > second else "2"
    return _pictures("more", rng, scenes, prompt, answer, answered("\n".join(lines), answer))


def motion(rng: Random) -> Question:
    """Tells in which direction a thing moves."""
    direction = rng.choice(("left", "right", "up", "down"))
    width, height = picture_size(rng, *FRAME_SIDE_PX)
    count = rng.randint(3, 5)
    kinds = names(rng, rng.randint(1, 2))
    paths = until(lambda: _paths(rng, width, height, count, direction, len(kinds)))
    frames = [
        Scene(
            width,
            height,
            tuple(Thing(*kind, spot) for kind, spot in zip(kinds, spots, strict=True)),
        )
        for spots in zip(*paths, strict=True)
    ]
    first, last = frames[0], frames[-1]
    name = first.things[0].name
    prompt = rng.choice(
        ("Which way does the {} move?", "In which direction does the {} move?", "Where does the {} go?")
    ).format(name)
    steps = f"{grounded(name, first, first.things[0])}{boxes(last, last.things[:1])}"
    return _video("motion", "text", rng, frames, prompt, direction, lambda _times: answered(steps, direction))


def order(rng: Random) -> Question:
    """Tells which of two things appears first."""
    count = rng.randint(3, 5)
    width, height = picture_size(rng, *FRAME_SIDE_PX)
    early, late = sorted(rng.sample(range(count), 2))
    scene = scene_of(rng, names(rng, 2), width, height)
    frames = [
        replace(
            scene,
            things=tuple(t for t, start in zip(scene.things, (early, late), strict=True) if index >= start),
        )
        for index in range(count)
    ]
    answer = scene.things[0].name
    asked = [thing.name for thing in scene.things]
    rng.shuffle(asked)
    prompt = rng.choice(
        (
            "Which appears first, the {} or the {}?",
            "What comes into view first, the {} or the {}?",
            "The {} or the {}: which one is seen first?",
        )
    ).format(*asked)

    def response(times: list[float]) -> str:
        lines = [f"{timestamp(time)} none" for time in times[:early]] + [
            f"{timestamp(times[early])} {answer}"
        ]
        return answered("\n".join(lines), answer)

    return _video("order", "choice", rng, frames, prompt, answer, response, (asked[0], asked[1]))


def when(rng: Random) -> Question:
    """Tells at which time a thing is seen first."""
    count = rng.randint(4, 6)
    width, height = picture_size(rng, *FRAME_SIDE_PX)
    start = rng.randrange(count)
    scene = scene_of(rng, names(rng, rng.randint(1, 2)), width, height)
    target, *others = scene.things
    frames = [
        replace(scene, things=tuple(others) + ((target,) if index >= start else ())) for index in range(count)
    ]
    prompt = rng.choice(
        ("When does the {} appear?", "At what time does the {} come into view?", "When is the {} seen first?")
    ).format(target.name)

    def response(times: list[float]) -> str:
        lines = [f"{timestamp(time)} no" for time in times[:start]] + [f"{timestamp(times[start])} yes"]
        return answered("\n".join(lines), timestamp(times[start]))

    return _video("when", "time", rng, frames, prompt, start, response)


def _two_numbers(rng: Random, least: int, most: int) -> tuple[int, int] | None:
    first, second = rng.randint(least, most), rng.randint(least, most)
    return (first, second) if first != second else None


def _paths(
    rng: Random, width: int, height: int, count: int, direction: str, things: int
) -> list[list[Place]] | None:
    """A path of places for each thing: the first moves, the others stay."""
    start, *still = places(rng, width, height, things)
    end = place(rng, width, height, still)
    if end is None:
        return None
    across = direction in ("left", "right")
    side = width if across else height
    end = replace(
        end,
        width=start.width,
        height=start.height,
        left=end.left if across else start.left + rng.randint(-4, 4),
        top=start.top + rng.randint(-4, 4) if across else end.top,
    )
    travel = (end.left - start.left if across else end.top - start.top) / side
    if direction in ("left", "up"):
        travel = -travel
    path = [
        replace(
            start,
            left=round(start.left + (end.left - start.left) * index / (count - 1)),
            top=round(start.top + (end.top - start.top) * index / (count - 1)),
        )
        for index in range(count)
    ]
    inside = all(
        0 <= spot.left <= width - spot.width and 0 <= spot.top <= height - spot.height
        for spot in (start, end)
    )
    free = all(spot.apart(other, 2) for spot in path for other in still)
    return [path, *([other] * count for other in still)] if travel >= TRAVEL and inside and free else None


def _pictures(
    family: str, rng: Random, scenes: list[Scene], prompt: str, answer: str, response: str
) -> Question:
    images = tuple(paint(scene, rng) for scene in scenes)
    regions = tuple(scene.regions() for scene in scenes)
    return Question(family, "number", prompt, answer, images, response=response, regions=regions)


def _video(
    family: str,
    kind: Kind,
    rng: Random,
    frames: list[Scene],
    prompt: str,
    answer: str | int,
    response: Callable[[list[float]], str],
    choices: tuple[str, ...] = (),
) -> Question:
    """`answer` is a text, or the index of the frame whose time is asked."""
    fps = rng.choice(FRAME_RATES)
    times = [index / fps for index in range(len(frames))]
    background = Background.sample(rng)
    told = rng.random() < PREFIX_SHARE
    return Question(
        family,
        kind,
        prompt,
        timestamp(times[answer]) if isinstance(answer, int) else answer,
        tuple(paint(frame, rng, background) for frame in frames),
        times_s=tuple(times),
        duration_s=len(frames) / fps if told else None,
        fps=fps if told else None,
        choices=choices,
        response=response(times),
        regions=tuple(frame.regions() for frame in frames),
    )
