"""`neo-edge batch -o`: what is answered stays, whatever ends the run, and `--resume` asks the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from neo_edge.cli import main
from neo_edge.errors import InputError
from neo_edge_runtime.answer_file import open_answers
from neo_edge_runtime.batch_generation import BatchPiece, BatchStream

QUESTIONS = [
    {"prompt": f"question {number}", "id": f"q{number}", "options": {"max_new_tokens": 4 + number % 3}}
    for number in range(12)
]
OPTIONS = ["--threads", "1", "--batch-size", "3"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS), encoding="utf-8")
    return path


@pytest.fixture
def expected(tiny_bundle: Path, prompts: Path, tmp_path: Path) -> list[dict[str, object]]:
    """The answers of a run that nothing disturbs, without what they cost."""
    whole = tmp_path / "whole.jsonl"
    assert main(["batch", str(tiny_bundle), str(prompts), *OPTIONS, "-o", str(whole)]) == 0
    return read(whole)


def read(path: Path) -> list[dict[str, object]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "usage"} for line in lines]


def by_line(path: Path) -> list[dict[str, object]]:
    return sorted(read(path), key=lambda answer: int(str(answer["line"])))


def resume(bundle: Path, prompts: Path, target: Path) -> int:
    return main(["batch", str(bundle), str(prompts), *OPTIONS, "-o", str(target), "--resume"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_run_that_breaks_keeps_all_answers_that_were_finished_and_says_where(
    tiny_bundle: Path,
    prompts: Path,
    expected: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[BaseException],
) -> None:
    finished: list[int] = []
    pieces = BatchStream.__next__

    def breaking(stream: BatchStream) -> BatchPiece:
        if len(finished) == 5:
            raise error
        piece = pieces(stream)
        if piece.completion is not None:
            finished.append(piece.row)
        return piece

    target = prompts.parent / "answers.jsonl"
    arguments = ["batch", str(tiny_bundle), str(prompts), *OPTIONS, "-o", str(target)]
    with monkeypatch.context() as patched:
        patched.setattr(BatchStream, "__next__", breaking)
        if error is KeyboardInterrupt:
            assert main(arguments) == 130
        else:
            with pytest.raises(error):
                main(arguments)
    assert (
        f"5 of 12 questions are in {target}: the same command with --resume asks" in capsys.readouterr().err
    )
    assert sorted(int(str(answer["line"])) - 1 for answer in read(target)) == sorted(finished)
    assert resume(tiny_bundle, prompts, target) == 0
    assert "7 answers (5 were there)" in capsys.readouterr().err
    assert by_line(target) == expected


def test_a_killed_run_goes_on_where_it_was(
    tiny_bundle: Path, prompts: Path, expected: list[dict[str, object]]
) -> None:
    target = prompts.parent / "answers.jsonl"
    line = [sys.executable, "-m", "neo_edge.cli", "batch", tiny_bundle, prompts, *OPTIONS, "-o", target]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as child:
        while not (target.exists() and target.stat().st_size) and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    before = read(target)
    assert before == expected[: len(before)]
    assert resume(tiny_bundle, prompts, target) == 0
    assert by_line(target) == expected


def test_a_torn_last_line_is_asked_again(
    tiny_bundle: Path, prompts: Path, expected: list[dict[str, object]]
) -> None:
    whole = (prompts.parent / "whole.jsonl").read_bytes()
    third = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in (0, 1, 30, third - 1, third, third + 5, len(whole) - 1, len(whole)):
        target = prompts.parent / f"cut{cut}.jsonl"
        target.write_bytes(whole[:cut])
        assert resume(tiny_bundle, prompts, target) == 0
        assert read(target) == expected


def test_a_question_that_fails_leaves_its_error_and_is_asked_again(
    tiny_bundle: Path,
    prompts: Path,
    expected: list[dict[str, object]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture, target = prompts.parent / "cut.png", prompts.parent / "answers.jsonl"
    Image.effect_noise((64, 64), 50).save(picture)
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])  # its head is fine
    with prompts.open("a", encoding="utf-8") as file:
        print(json.dumps({"prompt": "what?", "images": ["cut.png"]}), file=file)
        print(json.dumps({"prompt": [1, 2], "options": {"max_new_tokens": 2}}), file=file)
    assert main(["batch", str(tiny_bundle), str(prompts), *OPTIONS, "-o", str(target)]) == 1
    printed = capsys.readouterr().err
    assert (
        "error: 1 of 14 questions failed, and their lines say why; the same command with --resume" in printed
    )
    found = read(target)
    assert found[:12] == expected
    assert (found[12]["stop_reason"], found[12]["text"]) == ("error", "")
    error = found[12]["error"]
    assert isinstance(error, dict)
    assert error["type"] == "ImageError"
    assert f"{prompts}, line 13: {picture}" in error["message"]
    assert len(str(found[13]["token_ids"])) > 2

    assert resume(tiny_bundle, prompts, target) == 1
    assert "1 answers (13 were there)" in capsys.readouterr().err
    picture.write_bytes(whole)
    assert resume(tiny_bundle, prompts, target) == 0
    again = by_line(target)
    assert [answer["line"] for answer in again] == list(range(1, 15))
    assert "error" not in again[12]
    assert again[13] == found[13]
    assert sorted(path.name for path in prompts.parent.iterdir()) == [
        "answers.jsonl",
        "cut.png",
        "prompts.jsonl",
        "whole.jsonl",
    ]


def test_to_standard_output_a_question_that_fails_has_its_line_too(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(json.dumps({"prompt": "x" * 60}) + "\n" + json.dumps(QUESTIONS[1]) + "\n")
    arguments = [*OPTIONS, "--max-context-tokens", "40"]
    assert main(["batch", str(tiny_bundle), str(prompts), *arguments]) == 1
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert first["error"]["type"] == "ContextOverflowError"
    assert second["id"] == "q1"
    assert printed.err.endswith("error: 1 of 2 questions failed, and their lines say why\n")


def test_resuming_what_is_whole_asks_nothing_and_what_is_not_there_asks_all(
    tiny_bundle: Path, prompts: Path, expected: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    target = prompts.parent / "answers.jsonl"
    assert resume(tiny_bundle, prompts, target) == 0
    assert "12 answers, " in capsys.readouterr().err
    assert resume(tiny_bundle, prompts, target) == 0
    assert "0 answers (12 were there)" in capsys.readouterr().err
    assert read(target) == expected


@pytest.mark.usefixtures("expected")
def test_answers_to_another_file_are_not_resumed(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = prompts.parent / "whole.jsonl"
    before = target.read_bytes()
    lines = prompts.read_text(encoding="utf-8").splitlines(keepends=True)
    prompts.write_text("".join(lines[1:]), encoding="utf-8")
    assert resume(tiny_bundle, prompts, target) == 1
    assert "has an answer to line 1, and that line had another text then" in capsys.readouterr().err
    prompts.write_text("".join(lines[:-1]), encoding="utf-8")
    assert resume(tiny_bundle, prompts, target) == 1
    assert "has answers to lines that hold no question now" in capsys.readouterr().err
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"my notes\nand more\n", b'{"line": 1}\n{"line": 2}\n', b"[1]\n[2]\n", b"\x00\n\n"]
)
def test_a_file_that_holds_something_else_is_not_resumed(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    target = prompts.parent / "notes.txt"
    target.write_bytes(content)
    assert resume(tiny_bundle, prompts, target) == 1
    assert "line 1: no answer of neo-edge batch, so the file cannot be resumed" in capsys.readouterr().err
    assert target.read_bytes() == content


def test_two_runs_cannot_write_one_file(
    tiny_bundle: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = prompts.parent / "answers.jsonl"
    with open_answers(target, "new"):
        assert resume(tiny_bundle, prompts, target) == 1
        assert f"another process writes {target}: wait for it to end" in capsys.readouterr().err
    assert resume(tiny_bundle, prompts, target) == 0


def test_resuming_needs_a_file_to_go_on_with(tiny_bundle: Path, prompts: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["batch", str(tiny_bundle), str(prompts), "--resume"])
    with pytest.raises(SystemExit, match="2"):
        main(["batch", str(tiny_bundle), str(prompts), "-o", "x", "--resume", "--overwrite"])


def test_a_wrong_last_line_of_a_long_file_is_found_before_anything_is_answered(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "a"}\n' * 600 + '{"prompt": [999]}\n', encoding="utf-8")
    assert main(["batch", str(tiny_bundle), str(path), *OPTIONS, "-o", str(target)]) == 1
    assert "line 601: token id 999 is outside the vocabulary 0..319" in capsys.readouterr().err
    assert not target.exists()


def test_prompts_come_through_a_pipe_that_can_be_read_once(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"prompt": "a", "options": {"max_new_tokens": 1}}\n')
    os.close(writing)
    assert main(["batch", str(tiny_bundle), f"/dev/fd/{reading}", *OPTIONS]) == 0
    os.close(reading)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_disk_that_is_full_ends_in_a_typed_error_and_a_whole_file(tmp_path: Path) -> None:
    import resource

    target = tmp_path / "answers.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        full = pytest.raises(InputError, match="cannot be written .*free disk space")
        with full, open_answers(target, "new") as answers:
            answers.write({"line": 1, "digest": "a"})
            resource.setrlimit(resource.RLIMIT_FSIZE, (target.stat().st_size + 20, limits[1]))
            answers.write({"line": 2, "digest": "a" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [answer["line"] for answer in read(target)] == [1]
