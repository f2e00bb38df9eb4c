"""The root of the command line: `neo-edge VERB`, whose verbs come from the stages' entry points."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from neo_edge import __version__
from neo_edge.errors import MissingExtraError, NeoEdgeError

GROUP = "neo_edge.commands"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_CLOSED_PIPE = 141  # 128 + SIGPIPE
_EPILOG = """\
`neo-edge VERB --help` says what a verb takes.

exit status:
  0    done
  1    an error, which the message explains; or a check that did not pass
  2    wrong usage, or a package is missing: the message holds the pip line
  130  Ctrl-C
  141  the reader of the output went away (| head)
"""


class Command(Protocol):
    """What an entry point of the group `neo_edge.commands` names; the entry point's name is the verb."""

    summary: str  # one line for the list of verbs

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the verb's arguments; `parser.epilog` may hold examples, shown as they are."""

    def run(self, args: argparse.Namespace) -> int:
        """Does the work and returns the exit status; `NeoEdgeError` becomes a message and status 1."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb of the installed stages; returns the exit status.

    0 success, 1 failure, 2 wrong usage or a missing extra, 130 interrupted, 141 when the reader of the
    output went away.
    """
    return run_commands(list(sys.argv[1:] if argv is None else argv), installed_commands())


def installed_commands() -> dict[str, Callable[[], Command]]:
    """What loads each verb of the installed packages, by verb."""
    return {entry.name: loader(entry) for entry in entry_points(group=GROUP)}


def run_commands(argv: list[str], loaders: Mapping[str, Callable[[], Command]]) -> int:
    """Runs one of these verbs; returns the exit status as `main` does."""
    return exit_status(lambda: _dispatch(argv, loaders))


def exit_status(work: Callable[[], int]) -> int:
    """What `work` returns; what it raises becomes a message and a status, as `main` has them."""
    try:
        try:
            status = work()
        finally:  # also behind --help, which leaves by SystemExit
            _flush_output()
    except MissingExtraError as error:
        return _fail(error, 2)
    except NeoEdgeError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _CLOSED_PIPE
    except OSError as error:
        return _fail(error, 1)
    return status


def loader(entry: EntryPoint) -> Callable[[], Command]:
    """Loads the entry point when called; one that cannot be imported becomes a verb that says so."""

    def load() -> Command:
        try:
            command: Command = entry.load()
        except (ImportError, AttributeError) as error:
            return _BrokenCommand(entry, error)
        return command

    return load


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The whole command line of these verbs."""
    parser = argparse.ArgumentParser(
        prog="neo-edge",
        description="Exports NEO-ov checkpoints to bundles and answers questions with them.",
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"neo-edge {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    for name, command in commands.items():
        verb = verbs.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            formatter_class=_HelpFormatter,
        )
        command.add_arguments(verb)
        verb.set_defaults(verb_parser=verb)
    return parser


def _dispatch(argv: list[str], loaders: Mapping[str, Callable[[], Command]]) -> int:
    # Loading only the verb that was asked for keeps the start quick.
    asked = argv[:1] if argv and argv[0] in loaders else sorted(loaders)
    commands = {name: loaders[name]() for name in asked}
    args, unknown = build_parser(commands).parse_known_args(argv)
    if unknown:  # argparse itself would show the usage of the whole program
        args.verb_parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return commands[args.verb].run(args)


class _HelpFormatter(argparse.HelpFormatter):
    """Leaves text of several lines as it is, does not cut at hyphens, gives the list of verbs one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = self._max_help_position  # argparse forgets the verbs' own indentation

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines() if "\n" in text else self._split_lines(text, width)
        return "\n".join(indent + line for line in lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _BrokenCommand:
    """Stands in for a verb whose code cannot be imported, so that the others still work."""

    def __init__(self, entry: EntryPoint, error: Exception) -> None:
        self.summary = "(cannot be loaded)"
        self._entry = entry
        self._error = error

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:  # noqa: ARG002 - the protocol's signature
        raise NeoEdgeError(
            f"the verb {self._entry.name!r} cannot be loaded from {self._entry.value} ({self._error}): "
            "install neo-edge again"
        ) from self._error


def _flush_output() -> None:
    if sys.stdout is None:  # closed before the program started
        return
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter flushes once more on exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
