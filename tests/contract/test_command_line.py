"""The command line as a whole: every verb, wrong arguments, output that goes nowhere, completion."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from neo_edge import cli
from neo_edge.commands.completion import SHELLS

VERBS = sorted(entry.name for entry in entry_points(group=cli.GROUP))
PROMISED = [
    "export",
    "parity",
    "verify",
    "inspect",
    "run",
    "chat",
    "eval",
    "bench",
    "demo",
    "make-checkpoint",
    "doctor",
]
FOR_SCRIPTS = ["bench", "doctor", "eval", "export", "inspect", "make-checkpoint", "parity", "run", "verify"]
COMMAND = f"{sys.executable} -m neo_edge.cli"


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    cli.installed_commands()[verb]().add_arguments(parser)
    return parser


def test_every_promised_verb_is_installed() -> None:
    assert set(PROMISED) <= set(VERBS)


@pytest.mark.parametrize("verb", FOR_SCRIPTS)
def test_what_a_script_wants_comes_as_json(verb: str) -> None:
    assert any("--json" in action.option_strings for action in parser_of(verb)._actions)


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_options_exit_2_with_the_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([verb, "--no-such-option"])
    assert raised.value.code == 2
    assert f"usage: neo-edge {verb}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_80_columns_and_words_are_not_cut(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as raised:
        cli.main([verb, "--help"])
    assert raised.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.endswith("-")] == []
    assert "(cannot be loaded)" not in "".join(lines)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_every_verb_says_what_it_is_for(verb: str) -> None:
    assert [action.dest for action in parser_of(verb)._actions if not action.help] == []
    summary = cli.installed_commands()[verb]().summary
    assert summary[0].islower(), "the list of verbs has one style"
    assert not summary.endswith(".")


@pytest.mark.parametrize("arguments", ["--help", "doctor --json"])
def test_a_reader_that_is_gone_gets_no_traceback(arguments: str) -> None:
    # The shell's `true` ends at once; bash gives the status of the first command.
    script = f"sleep 0.2; {COMMAND} {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_output_onto_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND.split(), "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_standard_output_there_is_no_traceback() -> None:
    script = f"{COMMAND} completion bash >&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    code = (
        f"{script}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        "_shtab_neo_edge neo-edge\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_verbs_options_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "neo-edge", "ins") == ["inspect"]
    assert set(complete(script, "neo-edge", "")) >= set(VERBS)
    assert complete(script, "neo-edge", "make-checkpoint", "--pre") == ["--preset"]
    assert "500m" in complete(script, "neo-edge", "make-checkpoint", "--preset", "5")


def test_bash_completes_files_where_a_path_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["completion", "bash"]) == 0
    assert complete(capsys.readouterr().out, "neo-edge", "chat", "my") == ["my.bundle"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_with_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [verb for verb in VERBS if verb not in script] == []


def test_completion_without_its_package_has_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "zsh"]) == 2
    assert 'pip install "neo-edge[completion]"' in capsys.readouterr().err


def test_json_is_all_that_stands_on_standard_output() -> None:
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*COMMAND.split(), "inspect", "neo-ov-nano", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert json.loads(done.stdout)["kind"] == "checkpoint"
