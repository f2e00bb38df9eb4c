"""A robot that keeps a red ball ahead: camera in; "where is it, which way do I turn?" out, at a steady rate.

python samples/robot_loop.py out/neo-ov-nano.bundle

The robot is simulated, so this runs anywhere. For yours, give `follow` an object with `camera` and `obey`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from PIL import Image, ImageDraw

import neo_edge
from neo_edge import Box, parse_boxes, parse_choice

QUESTION = "You are a robot. To reach the red ball, do you turn left, turn right or go ahead?"
COMMANDS = ("turn left", "turn right", "go ahead")


class Robot(Protocol):
    """What the loop needs of a robot."""

    def camera(self) -> Image.Image: ...

    def obey(self, command: str) -> None: ...


@dataclass(frozen=True)
class Step:
    """One turn of the loop."""

    picture: Image.Image
    box: Box | None  # of the ball, in pixels; None: it is not seen
    command: str | None  # None: the answer was none of the commands, and the robot stood still
    latency_ms: float  # from the picture to the command


def follow(
    model: neo_edge.Model, robot: Robot, *, rate_hz: float = 5.0, steps: int | None = None
) -> Iterator[Step]:
    """Looks, asks and turns, `rate_hz` times a second; a turn that took too long leaves later ones out."""
    # A window of one frame: "where is it" is about now. For "which way does it move" keep more.
    with model.watch(max_frames=1, every=None) as live:
        began = time.monotonic()
        due = 0
        for _ in itertools.islice(itertools.count(), steps):
            due = max(due, math.ceil((time.monotonic() - began) * rate_hz))
            time.sleep(max(0.0, began + due / rate_hz - time.monotonic()))
            due += 1
            seen = time.monotonic()
            picture = robot.camera()
            live.add(picture, seen - began)
            box, command = read(live.ask(QUESTION).finish().text, picture)
            step = Step(picture, box, command, 1e3 * (time.monotonic() - seen))
            if step.command is not None:
                robot.obey(step.command)
            yield step


def read(answer: str, picture: Image.Image) -> tuple[Box | None, str | None]:
    """Where the ball is and what to do, of `<ref>red ball</ref><box>[[...]]</box>`, a new line, `Answer: turn left`."""
    try:
        boxes = parse_boxes(answer, picture)
        return (boxes[0] if boxes else None), parse_choice(answer, COMMANDS)
    except neo_edge.errors.AnswerError:  # a model may write anything; a robot must not do anything
        return None, None


class SimulatedRobot:
    """Turns on the spot before a wall with a blue cube; a red ball wanders about it."""

    SIZE = (160, 120)  # of the camera's picture, in pixels
    VIEW_DEG = 80.0  # from its left to its right
    CUBE_DEG = 20.0
    TURN_DEG = 5.0  # of one command

    def __init__(self, seed: int = 1) -> None:
        self.heading_deg = 0.0
        self.ball_deg = 0.0
        self.looks = 0
        self._rng = Random(seed)

    @property
    def offset_deg(self) -> float:
        """How far to the right of the middle the ball is."""
        return self.ball_deg - self.heading_deg

    def camera(self) -> Image.Image:
        """What is ahead now; the ball goes on with each look."""
        self.looks += 1
        self.ball_deg = 50 * math.sin(self.looks / 12) + 8 * math.sin(self.looks / 3)
        fine = 3  # drawn larger, then averaged, for smooth edges
        picture = Image.new("RGB", (self.SIZE[0] * fine, self.SIZE[1] * fine), (118, 122, 120))
        draw = ImageDraw.Draw(picture)
        draw.rectangle(self._outline(self.CUBE_DEG, 28, fine), fill=(36, 64, 220))
        draw.ellipse(self._outline(self.ball_deg, 84, fine), fill=(214, 32, 32))
        return picture.resize(self.SIZE, Image.Resampling.BOX)

    def obey(self, command: str) -> None:
        """Turns by `TURN_DEG`, more or less: wheels slip."""
        turn = {"turn left": -self.TURN_DEG, "turn right": self.TURN_DEG, "go ahead": 0.0}[command]
        self.heading_deg += turn * self._rng.uniform(0.8, 1.2)

    def _outline(self, bearing_deg: float, height_px: float, fine: int) -> tuple[float, float, float, float]:
        """Where something of 44 pixels is seen that stands in this direction."""
        x = self.SIZE[0] * (0.5 + (bearing_deg - self.heading_deg) / self.VIEW_DEG)
        return (x - 22) * fine, (height_px - 22) * fine, (x + 22) * fine, (height_px + 22) * fine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="of the nano checkpoint: neo-edge export neo-ov-nano -o BUNDLE")
    parser.add_argument("--rate", type=float, default=5.0, help="turns a second (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="how many; default: until Ctrl-C")
    arguments = parser.parse_args()
    robot = SimulatedRobot()
    try:
        with neo_edge.load(arguments.bundle) as model:
            for step in follow(model, robot, rate_hz=arguments.rate, steps=arguments.steps):
                where = "not seen" if step.box is None else f"at x = {step.box.centre.x:.0f}"
                print(f"ball {where}: {step.command or 'no answer'} ({step.latency_ms:.0f} ms)", flush=True)
    except neo_edge.NeoEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
