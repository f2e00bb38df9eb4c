"""What a line typed into a chat does: ask, or one of the commands that start with a slash."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge_runtime.commands.chat import COMMANDS, command_list
from neo_edge_runtime.commands.run import cost_line
from neo_edge_runtime.image_input import load_image

if TYPE_CHECKING:
    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime.completion import Completion
    from neo_edge_runtime.model import Model


class TerminalChat:
    """A conversation whose answers go to standard output, and everything else to standard error."""

    def __init__(
        self,
        model: Model,
        *,
        system: str | None,
        options: SamplingOptions,
        pictures: Sequence[Path] = (),
        videos: Sequence[Path] = (),
        sampling: FrameSampling | None = None,
    ) -> None:
        """`pictures` and `videos` go with the first question, and `sampling` is of all videos.

        Raises:
            ImageError: a picture cannot be read.
            InputError: a video is not there.
        """
        self._model, self._system, self._options = model, system, options
        self._chat = model.chat(system)
        self._pictures: list[Path] = []
        self._videos: list[Path] = []
        self._sampling = sampling
        self._last: Completion | None = None
        self._ended = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/video": self._video,
            "/undo": self._undo,
            "/reset": self._reset,
            "/stats": self._stats,
            "/help": self._help,
            "/quit": self._quit,
        }
        assert list(self._commands) == [name for name, _, _ in COMMANDS]
        for picture in pictures:
            self._show(picture)
        for video in videos:
            self._show_video(video)

    def take(self, line: str, *, interruptible: bool) -> bool:
        """Does what the line says; False when it ends the chat.

        Args:
            line: a question, or a command; an empty one does nothing.
            interruptible: Ctrl-C ends the answer after the step that runs, instead of the program.

        Raises:
            NeoEdgeError: it cannot be done; the conversation is as before.
        """
        text = line.strip()
        if not text:
            return True
        if not text.startswith("/") or text.startswith("//"):
            self._ask(text[1:] if text.startswith("//") else text, interruptible=interruptible)
            return True
        name, _, rest = text.partition(" ")
        if name not in self._commands:
            raise InputError(
                f"there is no command {name}: use {', '.join(self._commands)}, or // for a question that starts with /"
            )
        self._commands[name](rest.strip())
        return not self._ended

    def close(self) -> None:
        """Gives the cache's memory back."""
        self._chat.close()

    def __enter__(self) -> TerminalChat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, text: str, *, interruptible: bool) -> None:
        before = self._chat.turns
        stream = self._chat.stream(
            text,
            self._pictures,
            videos=self._videos,
            frame_sampling=self._sampling,
            options=self._options,
        )
        with stream, _interrupt_cancels(stream.cancel) if interruptible else nullcontext():
            for piece in stream:
                print(piece, end="", flush=True)
        print(flush=True)
        if self._chat.turns == before:
            _say("(stopped before the answer began: the question is not in the conversation)")
            return
        self._last = stream.completion
        self._pictures, self._videos = [], []
        if self._last.stop_reason not in ("eos", "stop_string"):
            _say(f"({cost_line(self._last).partition(',')[0]})")

    def _image(self, rest: str) -> None:
        try:
            names = shlex.split(rest)  # terminals quote what is dragged into them
        except ValueError:
            names = [rest]
        if not names:
            raise InputError("/image needs the path of a picture: /image table.jpg")
        for name in [rest] if Path(rest).is_file() else names:
            self._show(_expanded(name))

    def _video(self, rest: str) -> None:
        if not rest:
            raise InputError("/video needs the path of a video file: /video clip.mp4")
        self._show_video(_expanded(rest if Path(rest).is_file() else rest.strip("'\"")))

    def _show_video(self, video: Path) -> None:
        if not video.is_file():
            raise InputError(f"{video} is no file: give the path of a video file")
        self._videos.append(video)
        _say(f"({video} goes with the next question)")

    def _show(self, picture: Path) -> None:
        image = load_image(picture)
        self._pictures.append(picture)
        _say(f"({picture}, {image.width}x{image.height}, goes with the next question)")

    def _undo(self, rest: str) -> None:
        if rest and not rest.isdecimal():
            raise InputError(f"/undo takes how many questions to take back; {rest!r} is no number")
        self._chat.rewind(int(rest or 1))
        self._last = None
        _say(f"(taken back; the conversation has {_questions(self._chat.turns)} left)")

    def _reset(self, _rest: str) -> None:
        self._chat.close()
        self._chat, self._last = self._model.chat(self._system), None
        self._pictures, self._videos = [], []
        _say("(forgotten)")

    def _stats(self, _rest: str) -> None:
        session = self._chat.session
        asked = _questions(self._chat.turns)
        _say(f"{asked}, {session.length} tokens in a cache of {session.capacity}")
        for waiting in (*self._pictures, *self._videos):
            _say(f"waiting for the next question: {waiting}")
        if self._last is not None:
            _say(f"last answer: {cost_line(self._last)}")

    def _help(self, _rest: str) -> None:
        _say(command_list())

    def _quit(self, _rest: str) -> None:
        self._ended = True


@contextmanager
def _interrupt_cancels(cancel: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C cancels, so that the cache stays in order; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        cancel()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # a tilde before nobody's name
        return Path(name)


def _questions(number: int) -> str:
    return "1 question" if number == 1 else f"{number} questions"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
