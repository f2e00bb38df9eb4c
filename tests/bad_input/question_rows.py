"""JSONL files of questions with something broken in them."""

from __future__ import annotations

import io
import json
from typing import Any

from bad_row import Action, Place, Row
from PIL import Image

from neo_edge.errors import ImageError, InputError, PromptError
from neo_edge_calibration.jsonl import read_questions

GOOD = {"question": "How many?", "kind": "number", "answer": "3"}


def lines(broken: str, text: str | bytes, *words: str, error: type[Exception] = InputError) -> Row:
    """A file of this text, beside a good picture and a broken one; its questions are read, and their pictures."""

    def prepare(place: Place) -> Action:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64)).save(picture, "PNG")
        (place.folder / "cat.png").write_bytes(picture.getvalue())
        (place.folder / "cut.png").write_bytes(picture.getvalue()[:-20])
        path = place.folder / "q.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return lambda: list(read_questions(path))

    return Row(broken, prepare, error, words)


def line(broken: str, *words: str, error: type[Exception] = InputError, **changes: Any) -> Row:
    """A good line and then one with these changes."""
    question = {name: value for name, value in (GOOD | changes).items() if value != "absent"}
    return lines(broken, f"{json.dumps(GOOD)}\n{json.dumps(question)}\n", "line 2", *words, error=error)


def _absent(place: Place) -> Action:
    return lambda: read_questions(place.folder / "absent.jsonl")


def _good(place: Place) -> Action:
    path = place.folder / "q.jsonl"
    path.write_text("\ufeff\n" + json.dumps(GOOD) + "\r\n\n", encoding="utf-8")
    return lambda: list(read_questions(path))


FRAMES: dict[str, Any] = {"images": ["cat.png", "cat.png"], "times_s": [0, 1]}
QUESTION_ROWS = (
    Row("no such file", _absent, InputError, ("cannot be read", "give a UTF-8 file")),
    Row(
        "empty lines and a byte order mark: read",
        _good,
        None,
        gives=lambda x: isinstance(x, list) and len(x) == 1,
    ),
    lines("an empty file", "", "holds no questions", "one JSON object a line"),
    lines("bytes that are no UTF-8", b'{"question": "\xff"}', "cannot be read", "give a UTF-8 file"),
    lines("half a line", '{"question": "How', "line 1", "one whole JSON object a line"),
    lines("a line that is a list", "[1]", "line 1", "an object with question, kind and answer is needed"),
    lines("a line nested 100,000 deep", "[" * 100_000, "line 1", "not JSON"),
    lines("a number of 5,000 digits", '{"a": ' + "1" * 5000 + "}", "line 1", "not JSON"),
    line("no answer", "question, kind and answer is needed", answer="absent"),
    line("an unknown field", "may have choices", speed=3),
    line("an unknown kind", "kind is 'guess'", "use one of choice, number", kind="guess"),
    line("a question that is a number", "question is 5", "write it as text", question=5),
    line("an answer that is a number", "answer is 3", "write it as text", answer=3),
    line("an answer that no reply can equal", "no number", "write a choice's letter", answer="three"),
    line("half a surrogate pair", "not JSON", "surrogates", question="\ud800"),
    line("a choice without choices", "needs 1 to 26 choices", kind="choice", answer="A"),
    line("choices without a choice", "only a choice has them", choices=["a"]),
    line("an answer beyond the choices", "no choice", kind="choice", choices=["a", "b"], answer="Z"),
    line("a box of three numbers", "no box", "[[x1, y1, x2, y2]]", kind="box", answer="[[1, 2, 3]]"),
    line("images that are one text", "images is 'cat.png'", "a list of texts", images="cat.png"),
    line("a missing picture", "dog.png", error=ImageError, images=["dog.png"]),
    line("a picture that is text", "q.jsonl cannot be read", error=ImageError, images=["q.jsonl"]),
    line("a cut picture", "cut.png", "save it again", error=ImageError, images=["cut.png"]),
    line("NUL in a picture's name", "cannot be read", error=ImageError, images=["a\0b"]),
    line(
        "a place too few",
        "1 <image> places for 2",
        error=PromptError,
        question="<image>",
        images=["cat.png"] * 2,
    ),
    line("times without pictures", "each of the 0 images", times_s=[1.0]),
    line("times that are NaN", "each of the 2 images", **{**FRAMES, "times_s": [0, float("nan")]}),
    line("times without end", "each of the 2 images", **{**FRAMES, "times_s": [0, 10**400]}),
    line("times out of order", "in order", error=PromptError, **{**FRAMES, "times_s": [1, 0]}),
    line("a duration without fps", "give both or none", error=PromptError, **FRAMES, duration_s=3),
    line("fps without a video", "times_s is missing", error=PromptError, fps=3, images=["cat.png"]),
    line("fps in words", "fps is 'fast'", "write a number", **FRAMES, fps="fast"),
    line(
        "a time question without times", "needs times_s", kind="time", answer="00:01.00", images=["cat.png"]
    ),
)
