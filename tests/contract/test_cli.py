from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from neo_edge import __version__, cli
from neo_edge.config import load_config
from neo_edge.errors import InputError, MissingExtraError
from neo_edge.protocols import PROTOCOLS

Run = Callable[[argparse.Namespace], int]


class FakeCommand:
    """A verb whose work is a function."""

    summary = "Does what the test says."

    def __init__(self, work: Run) -> None:
        self.run = work

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=1)


def run_verb(work: Run, argv: Sequence[str] = ("fake",)) -> int:
    return cli.run_commands(list(argv), {"fake": lambda: FakeCommand(work)})


def fail_with(error: BaseException) -> Run:
    def work(_: argparse.Namespace) -> int:
        raise error

    return work


def test_a_verb_gets_its_arguments_and_its_status_is_returned() -> None:
    assert run_verb(lambda args: args.count + 1, ["fake", "--count", "6"]) == 7


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("pass a number"), 1, "error: pass a number\n"),
        (MissingExtraError("torch", "export"), 2, 'pip install "neo-edge[export]"'),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file", "x.png"), 1, "error: [Errno 2] No such file: 'x.png'\n"),
    ],
)
def test_failures_become_a_message_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    assert run_verb(fail_with(error)) == status
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_verb(lambda _: 1 // 0)


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["nonsense"], ["fake", "--count", "x"]):
        with pytest.raises(SystemExit) as caught:
            run_verb(lambda _: 0, argv)
        assert caught.value.code == 2
    assert "usage: neo-edge" in capsys.readouterr().err


def test_only_the_verb_that_was_asked_for_is_loaded() -> None:
    def unwanted() -> FakeCommand:
        raise AssertionError("loaded")

    assert cli.run_commands(["fake"], {"fake": lambda: FakeCommand(lambda _: 0), "other": unwanted}) == 0


def test_a_verb_that_cannot_be_imported_spoils_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    loaders = {
        "broken": cli.loader(EntryPoint("broken", "neo_edge.no_such_module:command", cli.GROUP)),
        "unnamed": cli.loader(EntryPoint("unnamed", "neo_edge.cli:no_such_name", cli.GROUP)),
        "fake": lambda: FakeCommand(lambda _: 0),
    }
    assert cli.run_commands(["fake"], loaders) == 0
    for verb in ("broken", "unnamed"):
        assert cli.run_commands([verb, "x", "--json"], loaders) == 1
        assert f"error: the verb '{verb}' cannot be loaded" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.run_commands(["--help"], loaders)
    assert "Does what the test says." in capsys.readouterr().out


def neo_edge(*argv: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "neo_edge.cli", *argv]
    environment = os.environ | {"COLUMNS": str(columns)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_and_version_fit_80_columns() -> None:
    shown = neo_edge("--help")
    assert shown.returncode == 0
    assert "verify" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert neo_edge("--version").stdout == f"neo-edge {__version__}\n"


def test_a_closed_pipe_ends_quietly() -> None:
    code = (
        "import argparse, sys; from neo_edge import cli\n"
        "class Talker:\n"
        "    summary = 'x'\n"
        "    def add_arguments(self, parser): pass\n"
        "    def run(self, args):\n"
        "        for _ in range(100_000): print('word ' * 20)\n"
        "        return 0\n"
        "sys.exit(cli.run_commands(['talk'], {'talk': Talker}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


@pytest.fixture
def bundle(tmp_path: Path, golden_tiny: Path) -> Path:
    write_bundle(tmp_path / "x.bundle", load_config(golden_tiny))
    return tmp_path / "x.bundle"


def test_verify_says_that_a_bundle_is_whole(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no tokenizer: prompts must be token ids\n")
    assert printed.endswith("6 files, 0.1 MB, variants fp32: whole\n")


def test_verify_lists_what_is_damaged(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "fp32/vision.onnx").unlink()
    (bundle / "fp32/decoder.onnx").write_bytes(b"decoder GRAPH")
    assert cli.main(["verify", str(bundle)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fp32/decoder.onnx was altered")
    assert lines[1] == "fp32/vision.onnx is missing"
    assert "damaged, 2 faults" in lines[-1]


def test_verify_reports_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(bundle), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["ok"] is True
    assert (whole["files"], whole["variants"], whole["faults"]) == (6, ["fp32"], [])
    (bundle / "fp32/vision.onnx").unlink()
    assert cli.main(["verify", str(bundle), "--json"]) == 1
    damaged = json.loads(capsys.readouterr().out)
    assert (damaged["ok"], damaged["faults"]) == (False, ["fp32/vision.onnx is missing"])


def test_verify_of_what_is_no_bundle_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["eval", "run"])
def test_help_names_every_protocol(verb: str) -> None:
    shown = next(action.help or "" for action in arguments_of(verb) if action.dest == "protocol")
    assert [name for name in PROTOCOLS if name not in shown] == []


def arguments_of(verb: str) -> Sequence[argparse.Action]:
    parser = argparse.ArgumentParser()
    command_of(verb).add_arguments(parser)
    return parser._actions


def command_of(verb: str) -> cli.Command:
    return cli.loader(next(entry for entry in entry_points(group=cli.GROUP) if entry.name == verb))()
