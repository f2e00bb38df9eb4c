"""`neo-edge chat`: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import NeoEdgeError, SessionClosedError, TokenizerError
from neo_edge_runtime.commands.model_arguments import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)
from neo_edge_runtime.commands.video_arguments import add_video_arguments, chosen_frames

if TYPE_CHECKING:
    from neo_edge_runtime.commands.terminal_chat import TerminalChat

_PROMPT = "> "
_IGNORED_INTERRUPTS = 2  # while one is answered
# Command, its argument, what it does.
COMMANDS = (
    ("/image", "FILE", "show a picture with the next question; may be repeated"),
    ("/video", "FILE", "show a video file with the next question; may be repeated"),
    ("/undo", "[N]", "take the last question and its answer back, or the last N"),
    ("/reset", "", "forget everything"),
    ("/stats", "", "what is in the cache, and what the last answer cost"),
    ("/help", "", "this list"),
    ("/quit", "", "end, as Ctrl-D does"),
)


def command_list() -> str:
    """The commands of a chat, one line each."""
    return "\n".join(f"  {f'{name} {argument}':11}  {what}" for name, argument, what in COMMANDS)


_EPILOG = f"""\
A question costs its own tokens only: what was said before stays in the cache.

in the chat:
{command_list()}
Ctrl-C stops an answer and keeps the chat. A question that starts with a slash
is typed with two.

examples:
  neo-edge chat my.bundle --image table.jpg
  neo-edge chat my.bundle < questions.txt   one a line; an error ends it
"""


class ChatCommand:
    """Talks with a bundle."""

    summary = "talk with a bundle about pictures and videos"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_model_arguments(parser)
        parser.add_argument(
            "--image",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="a picture for the first question; may be repeated",
        )
        add_video_arguments(parser)
        add_sampling_arguments(parser)
        parser.epilog = _EPILOG

    def run(self, args: argparse.Namespace) -> int:
        """Answers until the input ends; from a pipe the first error ends it."""
        from neo_edge_runtime.commands.terminal_chat import TerminalChat

        with load_model(args) as model:
            if model.tokenizer is None:
                raise TokenizerError(
                    f"the bundle {args.bundle} has no tokenizer, so it cannot chat in words: export a checkpoint that "
                    "has tokenizer.json, or ask with `neo-edge run --token-ids`"
                )
            with TerminalChat(
                model,
                system=args.system,
                options=sampling_options(args, model.protocol.sampling),
                pictures=args.image,
                videos=args.video,
                sampling=chosen_frames(args, model.protocol.frame_sampling),
            ) as chat:
                if sys.stdin.isatty():
                    _talk(chat)
                else:
                    _answer_lines(chat)
        return 0


chat_command = ChatCommand()


def _talk(chat: TerminalChat) -> None:
    print("/help lists what can be done; Ctrl-C stops an answer, Ctrl-D ends", file=sys.stderr)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives `input` its editing and its history
    with _single_interrupts() as expect_interrupt:
        while True:
            try:
                expect_interrupt()
                line = input(_PROMPT)
            except EOFError:
                print(file=sys.stderr)
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /quit ends)", file=sys.stderr)
                continue
            try:
                expect_interrupt()
                if not chat.take(line, interruptible=True):
                    return
            except NeoEdgeError as error:
                print(f"error: {error}", file=sys.stderr)
                if isinstance(error, SessionClosedError):
                    print("(/reset starts again)", file=sys.stderr)
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)


@contextlib.contextmanager
def _single_interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises after each call of what this gives; until the next, some more of them are not heard.

    A second one, while the first is being answered, would end the chat. Where that takes long or gets lost, whoever
    presses on is heard.
    """
    to_ignore = 0

    def expect() -> None:
        nonlocal to_ignore
        to_ignore = 0

    def on_interrupt(_number: int, _frame: object) -> None:
        nonlocal to_ignore
        if to_ignore:
            to_ignore -= 1
        else:
            to_ignore = _IGNORED_INTERRUPTS
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield expect
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield expect
    finally:
        signal.signal(signal.SIGINT, before)


def _answer_lines(chat: TerminalChat) -> None:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in sys.stdin:
        if not chat.take(line.rstrip("\r\n"), interruptible=False):
            return
