"""`neo-edge batch` on a real bundle of the tiny checkpoint."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neo_edge.cli import main
from neo_edge_runtime.commands import batch

PROMPTS = [
    {"prompt": "where?", "images": ["pictures/a.png"], "options": {"max_new_tokens": 7}},
    {"prompt": "a rather longer question that has no picture", "system": "be brief"},
    {
        "prompt": "when?",
        "images": ["pictures/a.png", "pictures/b.png"],
        "times_s": [0, 1.5],
        "duration_s": 3,
        "fps": 1,
    },
    {"prompt": [1, 2, 3], "options": {"temperature": 1.5, "seed": 3, "stop": ["zz"]}},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")
    return write(tmp_path / "prompts.jsonl", *map(json.dumps, PROMPTS))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(bundle: Path, file: Path | str, *arguments: str) -> int:
    common = ["--threads", "1", "--max-pixels", "6144", "--max-new-tokens", "5"]
    return main(["batch", str(bundle), str(file), *common, *arguments])


def answers(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def without_usage(found: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in answer.items() if key != "usage"} for answer in found]


def test_every_line_gets_the_answer_that_run_gives_it_in_the_order_of_the_file(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, prompts) == 0
    printed = capsys.readouterr()
    found = answers(printed.out)
    assert [answer["line"] for answer in found] == [1, 2, 3, 4]
    assert [len(answer["token_ids"]) for answer in found] == [7, 5, 5, 5]  # type: ignore[arg-type]
    assert [answer["usage"]["visual_tokens"] for answer in found] == [6, 0, 12, 0]  # type: ignore[index]
    assert "4 answers, 22 tokens in" in printed.err
    single = ["run", str(tiny_bundle), "where?", "--image", str(prompts.parent / "pictures" / "a.png")]
    single += ["--threads", "1", "--max-pixels", "6144", "--max-new-tokens", "7", "--json"]
    assert main(single) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == found[0]["token_ids"]


@pytest.mark.parametrize(
    "arguments", [["--batch-size", "1"], ["--batch-size", "3"], ["--variant", "fp32-portable"]]
)
def test_how_many_are_answered_at_once_changes_no_answer(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(tiny_bundle, prompts) == 0
    expected = answers(capsys.readouterr().out)
    assert run(tiny_bundle, prompts, *arguments) == 0
    assert without_usage(answers(capsys.readouterr().out)) == without_usage(expected)


def test_a_long_file_is_answered_in_portions(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tiny_bundle, prompts) == 0
    expected = answers(capsys.readouterr().out)
    monkeypatch.setattr(batch, "_PORTION", 3)
    assert run(tiny_bundle, prompts) == 0
    assert without_usage(answers(capsys.readouterr().out)) == without_usage(expected)


def test_answers_go_into_a_file_that_is_replaced_only_when_that_is_asked_for(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = prompts.parent / "answers.jsonl"
    assert run(tiny_bundle, prompts, "-o", str(target)) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "answering: 4/4 questions" in printed.err
    first = answers(target.read_text(encoding="utf-8"))
    assert [answer["line"] for answer in first] == [1, 2, 3, 4]
    assert run(tiny_bundle, prompts, "-o", str(target)) == 1
    assert "exists already: choose another name, pass --overwrite, or --resume" in capsys.readouterr().err
    assert run(tiny_bundle, prompts, "-o", str(target), "--overwrite", "--max-new-tokens", "2") == 0
    assert len(answers(target.read_text(encoding="utf-8"))[1]["token_ids"]) == 2  # type: ignore[arg-type]
    assert sorted(path.name for path in prompts.parent.iterdir()) == [
        "answers.jsonl",
        "pictures",
        "prompts.jsonl",
    ]


def test_a_directory_is_not_overwritten(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, prompts, "-o", str(prompts.parent), "--overwrite") == 1
    assert "exists already: choose another name\n" in capsys.readouterr().err


def test_answers_for_a_folder_that_is_not_there_are_refused_before_any_work(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, prompts, "-o", str(prompts.parent / "none" / "answers.jsonl")) == 1
    printed = capsys.readouterr().err
    assert "is no directory, so answers.jsonl cannot be written there: make it first" in printed
    assert ".partial-" not in printed


def test_prompts_come_from_standard_input_too(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'\n{"prompt": "a"}\n')))
    assert run(tiny_bundle, "-") == 0
    assert [answer["line"] for answer in answers(capsys.readouterr().out)] == [2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "found list; an object with a prompt is needed"),
        ("{}", "found []; an object with a prompt is needed"),
        ('{"prompt": "a", "image": "a.png"}', "found ['image', 'prompt']; an object with a prompt"),
        ('{"prompt": 3}', "prompt is 3; write a text"),
        ('{"prompt": [1, true]}', "prompt is [1, True]; write a text"),
        ('{"prompt": [1, 999]}', "token id 999"),
        ('{"prompt": "a", "images": "a.png"}', "images is 'a.png'; write a list"),
        ('{"prompt": "a", "images": ["none.png"]}', "none.png cannot be read as a picture"),
        ('{"prompt": "a", "images": ["prompts.jsonl"]}', "prompts.jsonl cannot be read as a picture"),
        (
            '{"prompt": "a", "images": ["pictures/a.png"], "times_s": [1, 2]}',
            "times_s is [1, 2]; write a number",
        ),
        (
            f'{{"prompt": "a", "images": ["pictures/a.png"], "times_s": [{10**400}]}}',
            "write a number of seconds",
        ),
        (
            f'{{"prompt": "a", "images": ["pictures/a.png"], "times_s": [1], "fps": {10**400}}}',
            "fps is a number of about 400 digits",
        ),
        (
            f'{{"prompt": "a", "options": {{"temperature": {10**400}}}}}',
            "options: temperature is a number of about 400 digits",
        ),
        (
            '{"prompt": "a", "images": ["pictures/a.png"], "times_s": ["1"]}',
            "times_s is ['1']; write a number",
        ),
        (
            '{"prompt": "a", "images": ["pictures/a.png"], "times_s": [1], "fps": "1"}',
            "fps is '1'; write a number",
        ),
        (
            '{"prompt": "a", "images": ["pictures/a.png"], "times_s": [1], "duration_s": NaN}',
            "duration_s is nan",
        ),
        ('{"prompt": "a", "fps": 1}', "times_s is missing"),
        (
            '{"prompt": "a", "images": ["pictures/a.png"], "times_s": [-1]}',
            "frame times [-1.0] must be seconds from 0 on",
        ),
        ('{"prompt": "\\ud800"}', "not JSON"),
        ('{"prompt": "a", "id": 1.5}', "id is 1.5; write a text or a whole number"),
        ('{"prompt": []}', "prompt is []; write a text"),
        ('{"prompt": "a", "system": 1}', "system is 1; write it as text"),
        ('{"prompt": [1], "system": "b"}', "leave them out"),
        ('{"prompt": "a", "options": 1}', "options has 1; write an object"),
        (
            '{"prompt": "a", "options": {"heat": 1}}',
            "options has ['heat']; write an object with some of temperature",
        ),
        ('{"prompt": "a", "options": {"temperature": -1}}', "options: temperature is -1"),
        ('{"prompt": "a", "options": {"stop": 1}}', "options: "),
        ('{"prompt": "<image> <image>", "images": ["pictures/a.png"]}', "2 <image> places for 1 images"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_is_answered(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    file = write(prompts, '{"prompt": "good"}', line)
    assert run(tiny_bundle, file) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"error: {file}, line 2: " in printed.err
    assert message in printed.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\xff\xfe\x00", "UTF-8"), (b" \n\n", "holds no prompts")],
)
def test_a_file_without_prompts_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_bytes(content)
    assert run(tiny_bundle, file) == 1
    assert message in capsys.readouterr().err


def test_a_batch_size_of_nothing_is_wrong_usage(tiny_bundle: Path, prompts: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tiny_bundle, prompts, "--batch-size", "0")
