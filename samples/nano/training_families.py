"""Questions of the training alone: they teach in many places of a picture what the families need in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from types import MappingProxyType

from PIL import Image

from neo_edge.patch_grid import smart_resize
from neo_edge_calibration.question import Question
from neo_edge_calibration.scenes import make_question
from neo_edge_calibration.scenes.arranging import capacity, picture_size, scene_of
from neo_edge_calibration.scenes.drawing import COLOURS, SHAPES, Scene, paint
from neo_edge_calibration.scenes.wording import grounded

TOKEN = 32  # pixels of a visual token's side
MIN_PIXELS, MAX_PIXELS = 96 * 96, 320 * 320  # what the nano model sees; written into its config
FIND, COMPARE, PICTURE_SIZE = "find", "compare", "picture_size"
SOUGHT = 8  # things that one `find` sample looks for, at most
COMPARED = 12  # names that one `compare` sample holds against the first


def find_question(rng: Random) -> Question:
    """Gives names, one after the other, and wants the boxes of what has that name: none, one or several.

    A family's question seeks one or two things; seeking by colour was not learned from those alone.
    """
    width, height = picture_size(rng)
    few_colours, few_shapes = (
        rng.sample(list(COLOURS), rng.randint(1, 5)),
        rng.sample(SHAPES, rng.randint(1, 4)),
    )
    number = rng.randint(1, capacity(width, height))
    kinds = [(rng.choice(few_colours), rng.choice(few_shapes)) for _ in range(number)]
    scene = scene_of(rng, kinds, width, height)
    names = list(dict.fromkeys(_sought(rng, scene) for _ in range(SOUGHT)))
    steps = "\n".join(
        grounded(name, scene, *(thing for thing in scene.things if _fits(thing.colour, thing.shape, name)))
        for name in names
    )
    prompt = rng.choice(("Find what I name.", "Where are these?", "Locate each of these."))
    regions = (scene.regions(),)
    return Question(FIND, "text", prompt, "", (paint(scene, rng),), response=steps, regions=regions)


def compare_question(rng: Random) -> Question:
    """Says of many given names whether each is the first one, as `differs` does of three or four seen ones."""
    scene = scene_of(rng, [(rng.choice(list(COLOURS)), rng.choice(SHAPES))], 96, 96)
    thing = scene.things[0]
    steps = f"Image-1: {thing.name}"
    for index in range(2, COMPARED + 2):
        name = thing.name
        if rng.random() < 0.5:
            colour = thing.colour if rng.random() < 0.3 else rng.choice(list(COLOURS))
            name = f"{colour} {thing.shape if rng.random() < 0.3 else rng.choice(SHAPES)}"
        steps += f"\nImage-{index}: {name}, {'same' if name == thing.name else 'other'}"
    regions = (scene.regions(),)
    return Question(
        COMPARE,
        "text",
        "Which are the same?",
        "",
        (paint(scene, rng),),
        response=steps,
        regions=regions,
    )


def picture_size_question(rng: Random) -> Question:
    """Asks for width and height as the model gets them.

    Boxes are relative to the picture, positions are not: a model that knows the size learns boxes earlier.
    """
    question = make_question("box", str(rng.random()), 0)
    height, width = target_size(question.images[0])
    prompt = rng.choice(("How wide and high is the picture?", "What is the size of the picture in pixels?"))
    answer = f"{width}x{height}"
    return replace(
        question,
        family=PICTURE_SIZE,
        kind="text",
        prompt=prompt,
        answer=answer,
        response=f"\nAnswer: {answer}",
    )


def target_size(image: Image.Image) -> tuple[int, int]:
    """Height and width in pixels at which the nano model sees a picture."""
    return smart_resize(
        image.height, image.width, token_size=TOKEN, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS
    )


def _sought(rng: Random, scene: Scene) -> str:
    """A name that fits a thing of the scene, wholly or in part, or any name."""
    thing = rng.choice(scene.things)
    colour = thing.colour if rng.random() < 0.7 else rng.choice(list(COLOURS))
    shape = thing.shape if rng.random() < 0.7 else rng.choice(SHAPES)
    form = rng.random()
    if form < 0.5:
        return f"{colour} {shape}"
    if form < 0.8:
        return f"{colour} object" if _count(scene, colour) == 1 else f"{colour} objects"
    if form < 0.95:
        return shape if _count(scene, shape) == 1 else f"{shape}s"
    return "objects"


def _count(scene: Scene, word: str) -> int:
    return sum(word in (thing.colour, thing.shape) for thing in scene.things)


def _fits(colour: str, shape: str, name: str) -> bool:
    words = name.removesuffix("s").split()
    return all(word in (colour, shape, "object") for word in words)


TRAINING_FAMILIES: Mapping[str, Callable[[Random], Question]] = MappingProxyType(
    {FIND: find_question, COMPARE: compare_question, PICTURE_SIZE: picture_size_question}
)
