"""`neo-edge run` with answers that are bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neo_edge.cli import main


def run(bundle: Path, *arguments: str) -> int:
    return main(["run", str(bundle), "?", *arguments, "--threads", "1"])


def test_run_binds_the_answer_by_choices_a_pattern_or_a_schema(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, "--choices", "left, right") == 0
    assert capsys.readouterr().out in ("left\n", "right\n")
    assert run(tiny_bundle, "--pattern", "a{2}-[0-9]") == 0
    assert capsys.readouterr().out[:3] == "aa-"
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "integer", "minimum": 4, "maximum": 6}))
    assert run(tiny_bundle, "--schema", str(schema), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"] in ("4", "5", "6"), answer["stop_reason"]) == (True, "complete")
    assert run(tiny_bundle, "--choices", "a", "--after", "x", "--max-new-tokens", "3") == 0
    assert "ended by max_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--choices", "a", "--pattern", "b"],
            "--choices, --schema and --pattern are three ways to bind an answer",
        ),
        (["--after", "Answer: "], "--after says where a choice stands: pass it with --choices"),
        (["--choices", "a,,b"], "a choice is ''; it must be Unicode text that is not empty"),
        (["--choices", "a,a"], "the choice 'a' is there twice"),
        (["--schema", "missing.json"], "missing.json cannot be read as JSON"),
        (["--schema", "missing.json"], "give a file that holds a JSON schema"),
        (["--pattern", "("], "the pattern cannot be held to"),
    ],
)
def test_run_says_what_is_wrong_with_a_constraint_and_exits_1(
    tiny_bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
