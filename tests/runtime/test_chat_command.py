"""`neo-edge chat` from a pipe and on a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from neo_edge.cli import main
from neo_edge_runtime.commands.terminal_chat import TerminalChat

SHORT = ["--max-pixels", "6144", "--max-new-tokens", "5", "--threads", "1"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)).save(path)
    return path


class Say(Protocol):
    def __call__(
        self, *lines: str, arguments: tuple[str, ...] = (), status: int = 0
    ) -> tuple[list[str], str]:
        """The answers to these lines, and what was said beside them."""
        ...


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> Say:
    def run(*lines: str, arguments: tuple[str, ...] = (), status: int = 0) -> tuple[list[str], str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        capfd.readouterr()
        assert main(["chat", str(tiny_bundle), *SHORT, *arguments]) == status
        printed = capfd.readouterr()
        return printed.out.split("\n")[:-1], printed.err

    return run


def test_each_line_of_a_pipe_is_a_question_and_empty_ones_are_none(say: Say) -> None:
    answers, beside = say("where?", "", "   ", "and now?", "/stats")
    assert len(answers) == 2
    assert "2 questions" in beside
    assert "last answer: ended by" in beside


def test_a_later_question_knows_the_earlier_ones_and_undo_takes_them_back(say: Say) -> None:
    answers, beside = say("where?", "and now?", "/undo", "and now?", "/undo 2", "where?", "/stats")
    first, second, repeated, again = answers
    assert second == repeated
    assert first == again
    assert "1 question left" in beside
    assert "0 questions left" in beside


def test_reset_forgets_everything(say: Say) -> None:
    (first, again), beside = say("where?", "/reset", "/stats", "where?")
    assert first == again
    assert "0 questions, 0 tokens" in beside


def test_pictures_go_with_the_next_question_only(say: Say, picture: Path) -> None:
    _, beside = say(
        f"/image {picture}",
        f"/image '{picture}' \"{picture}\"",
        "/stats",
        "where?",
        "/stats",
        "and?",
        "/stats",
    )
    assert beside.count("96x64, goes with the next question") == 3
    assert beside.count("waiting for the next question") == 3
    assert "(18 visual)" in beside
    assert "(0 visual)" in beside
    _, beside = say("where?", "/stats", arguments=("--image", str(picture)))
    assert "(6 visual)" in beside


def test_two_slashes_are_one_in_a_question(say: Say) -> None:
    answers, _ = say("//x", "/reset", "//x")
    assert answers[0] == answers[1]


def test_quit_ends_before_what_follows(say: Say) -> None:
    answers, _ = say("where?", "/quit", "never asked")
    assert len(answers) == 1


def test_help_lists_every_command(say: Say) -> None:
    _, beside = say("/help")
    for command in ("/image FILE", "/undo [N]", "/reset", "/stats", "/help", "/quit"):
        assert command in beside


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "there is no command /nonsense: use /image, /video, /undo"),
        ("/image", "needs the path of a picture"),
        ("/image none.png", "none.png cannot be read"),
        ("/image ~nobody-of-that-name/a.png", "~nobody-of-that-name/a.png cannot be read"),
        ("/image 'half", "'half cannot be read"),
        ("/undo", "1 turns cannot be taken back"),
        ("/undo all", "'all' is no number"),
    ],
)
def test_from_a_pipe_the_first_error_ends_with_status_1(say: Say, line: str, message: str) -> None:
    answers, beside = say(line, "never asked", status=1)
    assert answers == []
    assert "error: " in beside
    assert message in beside


def test_a_bundle_without_a_tokenizer_says_how_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    golden = Path(__file__).parents[1] / "golden" / "tiny"
    export_bundle(golden, tmp_path / "x.bundle", ExportOptions())
    assert main(["chat", str(tmp_path / "x.bundle"), "--threads", "1"]) == 1
    assert "--token-ids" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "x.bundle"), "where?", "--threads", "1"]) == 1
    assert "--token-ids" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "x.bundle"), "1 2", "--token-ids", *SHORT]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) <= 5
    assert all(word.isdecimal() for word in printed.out.split())


def test_ctrl_c_that_comes_while_the_one_before_is_answered_does_not_end_the_chat(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if AT_THE_PROMPT in text or "(stopped)" in text:
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    typed: list[str | None] = [None, "/help", "/stats", None]  # None: Ctrl-C

    def keyboard(_prompt: str) -> str:
        if not typed:
            raise EOFError
        line = typed.pop(0)
        if line is None:
            signal.raise_signal(signal.SIGINT)
        assert line is not None
        return line

    def interrupted(_chat: TerminalChat, _rest: str) -> None:
        signal.raise_signal(signal.SIGINT)

    screen, before = Screen(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TerminalChat, "_help", interrupted)
    monkeypatch.setattr("builtins.input", keyboard)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["chat", str(tiny_bundle), *SHORT]) == 0
    assert screen.getvalue().count(AT_THE_PROMPT) == 2
    assert screen.getvalue().count("(stopped)") == 1
    assert "0 questions, " in screen.getvalue()
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out == ""


def test_whoever_presses_ctrl_c_again_and_again_is_heard(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pressed = []

    def interrupted(_chat: TerminalChat, _rest: str) -> None:
        with suppress(KeyboardInterrupt):  # as where Python only prints what a destructor raises
            signal.raise_signal(signal.SIGINT)
        for number in range(5):
            pressed.append(number)
            signal.raise_signal(signal.SIGINT)

    lines = iter(["/help", "/help", "/quit"])
    monkeypatch.setattr(TerminalChat, "_help", interrupted)
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["chat", str(tiny_bundle), *SHORT]) == 0
    assert pressed == [0, 1, 2] * 2
    assert capsys.readouterr().err.count("(stopped)") == 2


AT_THE_PROMPT = "(Ctrl-D or /quit ends)"  # says Ctrl-C where there is no answer to stop


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str, *, seconds: float = 300) -> str:
        """Reads until the text comes; what came before it."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"waited for {text!r}, saw {self.shown!r}"
            self._read()
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait_for_more(self) -> None:
        """Reads until anything comes."""
        end = time.monotonic() + 300
        while not self.shown:
            assert time.monotonic() < end, "nothing came"
            self._read()

    def type_until(self, keys: str, *texts: str) -> str:
        """What is typed while the prompt is being set up may be lost, so it is typed again; the text that came."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            self.type(keys)
            again = time.monotonic() + 5
            while time.monotonic() < again:
                for text in texts:
                    if text in self.shown:
                        self.shown = self.shown.partition(text)[2]
                        return text
                self._read()
        raise AssertionError(f"typed {keys!r} for {texts}, saw {self.shown!r}")

    def _read(self) -> None:
        if select.select([self._descriptor], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self._descriptor, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the chat ended: {self.shown!r}") from None


@contextmanager
def terminal_chat(bundle: Path, *arguments: str) -> Iterator[Terminal]:
    """A chat that Ctrl-D ends, with status 0, behind the `with` block."""
    command = [sys.executable, "-m", "neo_edge.cli", "chat", str(bundle), "--threads", "1", *arguments]
    child, descriptor = pty.fork()
    if child == 0:
        os.execve(command[0], command, os.environ | {"TERM": "dumb", "INPUTRC": os.devnull})
    try:
        yield Terminal(descriptor)
        end = time.monotonic() + 300
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            assert time.monotonic() < end, "Ctrl-D does not end the chat"
            with suppress(OSError):  # the terminal ends with the program
                os.write(descriptor, b"\x04")
                if select.select([descriptor], [], [], 0)[0]:
                    os.read(descriptor, 65536)
            time.sleep(0.2)
        child = 0
        assert os.waitstatus_to_exitcode(done[1]) == 0
    finally:
        os.close(descriptor)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# Forking is safe: the child runs another program at once.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_on_a_terminal_ctrl_c_stops_the_answer_and_keeps_the_chat(tiny_bundle: Path) -> None:
    with terminal_chat(tiny_bundle, "--max-new-tokens", "100000") as chat:
        chat.wait_for("> ")
        chat.type_until("\x03", AT_THE_PROMPT)
        for _ in range(20):
            chat.type_until("/reset\n", "(forgotten)")
            chat.type_until("hello there\n", "hello there\r\n")
            chat.wait_for_more()  # the answer has begun, or the terminal has said twice what was typed
            if chat.type_until("\x03", "cancelled", AT_THE_PROMPT) == "cancelled":
                break
        else:
            raise AssertionError("no answer was caught in the middle")
        chat.type_until("/stats\n", "1 question, ")
        chat.type("/nonsense\n")
        chat.wait_for("error: there is no command")
        chat.type("/undo\n")
        chat.wait_for("(taken back; the conversation has 0 questions left)")
