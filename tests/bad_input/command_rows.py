"""Command lines with something wrong: the message names what was typed, and no name of ours."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

from bad_row import Action, Place, Row
from PIL import Image

from neo_edge.cli import main

DIGITS = "9" * 400
ABOUT = "a number of about 400 digits"
Arguments = Callable[[Place], list[str]]


def command(broken: str, arguments: Arguments, status: int, *words: str, never: tuple[str, ...] = ()) -> Row:
    """A verb whose standard error holds these words and none of the others, and no page of digits."""

    def prepare(place: Place) -> Action:
        line = arguments(place)
        return lambda: _run(line)

    def gives(found: object) -> bool:
        assert isinstance(found, tuple)
        said = found[1]
        return bool(
            found[0] == status
            and all(word in said for word in words)
            and not any(word in said for word in (*never, "Traceback", "9" * 100))
        )

    return Row(broken, prepare, None, gives=gives)


def _run(line: list[str]) -> tuple[int | str | None, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            status: int | str | None = main(line)
        except SystemExit as error:
            status = error.code
    return status, said.getvalue()


def _bench(*given: str) -> Arguments:
    return lambda place: ["bench", str(place.bundle), *given]


def _run_verb(*given: str) -> Arguments:
    return lambda place: ["run", str(place.bundle), "hello", "--threads", "1", *given]


def _export_again(place: Place) -> list[str]:
    (place.folder / "out").mkdir()
    (place.folder / "out" / "bundle.json").write_bytes((place.bundle / "bundle.json").read_bytes())
    return ["export", str(place.checkpoint), "-o", str(place.folder / "out")]


def _parity(name: str, write: Callable[[Path], object]) -> Arguments:
    def arguments(place: Place) -> list[str]:
        write(place.folder / name)
        return ["parity", str(place.bundle), str(place.folder / name), "--threads", "1"]

    return arguments


def _batch(line: str) -> Arguments:
    def arguments(place: Place) -> list[str]:
        path = place.folder / "prompts.jsonl"
        path.write_text(json.dumps({"prompt": "good"}) + "\n" + line + "\n")
        return ["batch", str(place.bundle), str(path), "--threads", "1"]

    return arguments


def _eval(line: str) -> Arguments:
    def arguments(place: Place) -> list[str]:
        path = place.folder / "questions.jsonl"
        path.write_text(line + "\n")
        return ["eval", str(place.bundle), "--data", str(path), "--threads", "1"]

    return arguments


COMMAND_ROWS = (
    command(
        "no repetitions of a measurement",
        _bench("--repetitions", "0"),
        1,
        "error: repetitions: 0 was given; it must be 1 or above",
        never=("BenchPlan", "(", "prompt_tokens"),
    ),
    command(
        "no new tokens to measure",
        _bench("--new-tokens", "-3"),
        1,
        "new tokens: -3 was given; it must be 1 or above",
        never=("BenchPlan",),
    ),
    command("an export onto a bundle", _export_again, 1, "exists already", "--overwrite"),
    command(
        "a picture for a golden file",
        _parity("scene.png", lambda path: Image.new("RGB", (8, 8)).save(path)),
        1,
        "scene.png is no .npz archive: give a golden file; docs/parity.md",
        never=("pickle",),
    ),
    command(
        "an empty golden file",
        _parity("empty.npz", lambda path: path.write_bytes(b"")),
        1,
        "empty.npz is no .npz archive",
        never=("pickle",),
    ),
    command("a seed of 400 digits below zero", _run_verb("--seed", f"-{DIGITS}"), 1, f"seed is {ABOUT}"),
    command("400 digits for --top-k", _run_verb("--top-k", f"-{DIGITS}"), 1, f"top_k is {ABOUT}"),
    command("400 digits of threads", _run_verb("--threads", DIGITS), 1, f"threads is {ABOUT}"),
    command("400 digits of context", _run_verb("--max-context-tokens", f"-{DIGITS}"), 1, ABOUT),
    command("400 digits of pixels", _run_verb("--max-pixels", f"-{DIGITS}"), 1, ABOUT),
    command("400 digits of visual tokens", _run_verb("--max-visual-tokens", f"-{DIGITS}"), 1, ABOUT),
    command("400 digits of chunk", _run_verb("--chunk-tokens", f"-{DIGITS}"), 1, ABOUT),
    command("400 digits of memory", _run_verb("--memory-limit", DIGITS + "x"), 2, "write it like 512MiB"),
    command(
        "a context of 400 digits",
        lambda place: ["inspect", str(place.bundle), "--context", DIGITS],
        1,
        f"the context is {ABOUT} tokens",
    ),
    command("400 digits of repetitions", _bench("--repetitions", f"-{DIGITS}"), 1, ABOUT),
    command(
        "a token id of 400 digits in a batch",
        _batch(f'{{"prompt": [1, {DIGITS}]}}'),
        1,
        "line 2",
        f"token id {ABOUT} is outside the vocabulary 0..319",
    ),
    command(
        "an option of 400 digits in a batch",
        _batch(f'{{"prompt": "a", "options": {{"temperature": {DIGITS}}}}}'),
        1,
        "line 2",
        f"temperature is {ABOUT}",
    ),
    command(
        "a number of 5,000 digits in a batch",
        _batch(f'{{"prompt": "a", "fps": {"9" * 5000}}}'),
        1,
        "line 2",
        "not JSON",
    ),
    command(
        "an answer of 400 digits in a question",
        _eval(f'{{"question": "How many?", "kind": "number", "answer": {DIGITS}}}'),
        1,
        "line 1",
        f"answer is {ABOUT}; write it as text",
    ),
)
