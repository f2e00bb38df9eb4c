"""Draws the robot loop as one animated picture: what the camera sees and the model says, and the robot from above.

python samples/draw_robot_loop.py out/neo-ov-nano.bundle docs/robot-loop.webp
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys

from PIL import Image, ImageDraw, ImageFont

import neo_edge
from robot_loop import QUESTION, SimulatedRobot, Step, follow

SCALE = 3  # of the camera's picture
FRAME_MS = 150
INK, PAPER, GREEN, RED, BLUE = (40, 40, 40), (250, 250, 248), (20, 130, 60), (214, 32, 32), (36, 64, 220)


def draw(step: Step, robot: SimulatedRobot, heading_deg: float) -> Image.Image:
    """One frame: the camera's picture with the box at the left, the robot and the ball from above at the right."""
    width, height = step.picture.width * SCALE, step.picture.height * SCALE
    frame = Image.new("RGB", (width + height, height + 76), PAPER)
    frame.paste(step.picture.resize((width, height), Image.Resampling.NEAREST), (0, 0))
    pen = ImageDraw.Draw(frame)
    if step.box is not None:
        edges = (step.box.x1, step.box.y1, step.box.x2, step.box.y2)
        pen.rectangle([edge * SCALE for edge in edges], outline=(80, 255, 120), width=4)
    middle = (width + height / 2, height / 2)
    _from_above(pen, middle, height * 0.42, robot, heading_deg)
    small, large = ImageFont.load_default(17), ImageFont.load_default(24)
    pen.text((14, height + 10), QUESTION, INK, small)
    pen.text((14, height + 38), step.command or "no answer", GREEN, large)
    return frame


def _from_above(
    pen: ImageDraw.ImageDraw,
    middle: tuple[float, float],
    radius: float,
    robot: SimulatedRobot,
    heading_deg: float,
) -> None:
    """Directions as the robot has them: 0 degrees is up, and right is clockwise."""

    def place(bearing_deg: float, distance: float) -> tuple[float, float]:
        turn = math.radians(bearing_deg)
        return middle[0] + distance * math.sin(turn), middle[1] - distance * math.cos(turn)

    edges = [heading_deg + side * robot.VIEW_DEG / 2 for side in (-1, 1)]
    circle = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    pen.ellipse(circle, outline=(205, 205, 200), width=2)
    pen.pieslice(circle, edges[0] - 90, edges[1] - 90, fill=(232, 238, 228), outline=(160, 180, 160))
    pen.line([middle, place(heading_deg, radius)], fill=GREEN, width=3)
    for bearing_deg, colour, kind in ((robot.CUBE_DEG, BLUE, "cube"), (robot.ball_deg, RED, "ball")):
        x, y = place(bearing_deg, radius * 0.8)
        box = (x - 13, y - 13, x + 13, y + 13)
        if kind == "cube":
            pen.rectangle(box, fill=colour)
        else:
            pen.ellipse(box, fill=colour)
    pen.ellipse((middle[0] - 16, middle[1] - 16, middle[0] + 16, middle[1] + 16), fill=INK)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("picture", help="WebP file to write")
    parser.add_argument("--frames", type=int, default=76, help="default: %(default)s, one round of the ball")
    arguments = parser.parse_args()
    robot = SimulatedRobot()
    frames = []
    try:
        with neo_edge.load(arguments.bundle) as model:
            heading_deg = robot.heading_deg  # before the command of each step
            # As fast as it goes: the picture has a rate of its own.
            for step in itertools.islice(follow(model, robot, rate_hz=1000.0), arguments.frames):
                frames.append(draw(step, robot, heading_deg))
                heading_deg = robot.heading_deg
    except neo_edge.NeoEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    first, *others = frames
    first.save(
        arguments.picture,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=FRAME_MS,
        loop=0,
        quality=70,
        method=6,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
