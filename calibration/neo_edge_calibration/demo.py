"""The demonstration: export what ships, ask it ten questions, draw what it pointed at."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.checkpoint import open_checkpoint, resolve_checkpoint
from neo_edge.errors import BundleError, ExportError, InputError, MissingExtraError
from neo_edge_calibration.evaluation import ask
from neo_edge_calibration.question import Question
from neo_edge_calibration.scenes import FAMILIES, make_question
from neo_edge_calibration.scoring import all_boxes, is_right

CHECKPOINT = "neo-ov-nano"
QUESTIONS = 10
CELL_PX = (460, 250)  # one question on the picture
BOX_COLOUR = (255, 0, 160)


@dataclass(frozen=True)
class Asked:
    """One question and what the model said."""

    question: Question
    answer: str
    right: bool


@dataclass(frozen=True)
class DemoResult:
    """All questions, and the picture that shows them."""

    asked: Sequence[Asked]
    picture: Path

    @property
    def right(self) -> int:
        return sum(one.right for one in self.asked)


def run_demo(out: Path, seed: int) -> DemoResult:
    """Exports the bundle unless it is there, asks, and writes `demo.png`.

    Raises:
        MissingExtraError: there is something to export, and torch is not installed.
        InputError: `out` is no folder and cannot be made one.
        ExportError: the export failed; what it printed says why.
    """
    bundle = out / f"{CHECKPOINT}.bundle"
    _export(bundle)
    with neo_edge.load(bundle) as model:
        asked = []
        for question in draw_questions(seed):
            answer = ask(model, question)
            asked.append(Asked(question, answer, is_right(question, answer)))
    picture = out / "demo.png"
    draw_sheet(asked).save(picture)
    return DemoResult(asked, picture)


def draw_questions(seed: int, count: int = QUESTIONS) -> list[Question]:
    """Questions of different families, as long as there are enough."""
    families = list(FAMILIES)
    Random(f"demo {seed}").shuffle(families)
    return [make_question(families[index % len(families)], f"demo {seed}", index) for index in range(count)]


def draw_sheet(asked: Sequence[Asked]) -> Image.Image:
    """Every question with its pictures, predicted boxes and the answer; two columns."""
    width, height = CELL_PX
    sheet = Image.new("RGB", (2 * width, height * -(-len(asked) // 2)), "white")
    for index, one in enumerate(asked):
        sheet.paste(_cell(one), (index % 2 * width, index // 2 * height))
    return sheet


def _cell(one: Asked) -> Image.Image:
    width, height = CELL_PX
    cell = Image.new("RGB", CELL_PX, "white")
    draw = ImageDraw.Draw(cell)
    font = ImageFont.load_default(13)
    lines = [
        *textwrap.wrap(one.question.prompt, 66),
        f"-> {one.answer.splitlines()[-1]}" if one.answer else "-> ",
    ]
    if not one.right:
        lines.append(f"(wrong: {one.question.answer})")
    draw.multiline_text((8, 6), "\n".join(lines), fill="black", font=font)
    left, top = 8, 12 + 18 * len(lines)
    space = (width - 8) // len(one.question.images) - 8
    # Where several pictures are shown, boxes may belong to any of them: draw them only on a single one.
    boxes = all_boxes(one.answer) if len(one.question.images) == 1 else []
    for image in one.question.images:
        shown = image.copy()
        shown.thumbnail((space, height - top - 6))
        pen = ImageDraw.Draw(shown)
        for x1, y1, x2, y2 in boxes:
            scale_x, scale_y = shown.width / 1000, shown.height / 1000
            corners = sorted((x1 * scale_x, x2 * scale_x)) + sorted((y1 * scale_y, y2 * scale_y))
            pen.rectangle((corners[0], corners[2], corners[1], corners[3]), outline=BOX_COLOUR, width=2)
        cell.paste(shown, (left, top))
        left += shown.width + 8
    return cell


def _export(target: Path) -> None:
    """Writes the bundle, unless one of this very checkpoint is there."""
    if _is_current(target):
        print(f"{target} holds this checkpoint already: it is used as it is")
        return
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "export")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target.parent} cannot be made a folder ({error}): choose another one with --out"
        ) from error
    arguments = ["export", CHECKPOINT, "-o", str(target), "--precision", "fp32", "--overwrite"]
    print(f"$ neo-edge {' '.join(arguments)}", flush=True)
    # A process of its own: what answers below has never imported torch.
    status = _run([sys.executable, "-m", "neo_edge.cli", *arguments])
    if status:
        raise ExportError(f"the export ended with status {status}; its own message above says why")


def _run(line: Sequence[str]) -> int:
    """The program's exit status; Ctrl-C is handed on to it once, and it may clean up.

    `subprocess.run` would kill it a quarter of a second later, with half a bundle on the disk.
    """
    with subprocess.Popen(line, start_new_session=True) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise


def _is_current(target: Path) -> bool:
    try:
        provenance = open_bundle(target).manifest.provenance
    except BundleError:
        return False
    return provenance.get("checkpoint_sha256") == open_checkpoint(resolve_checkpoint(CHECKPOINT)).digest()
