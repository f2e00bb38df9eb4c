"""The root of the command line: `neo-edge VERB`, whose verbs come from the stages' entry points."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from neo_edge import __version__
from neo_edge.errors import MissingExtraError, NeoEdgeError

GROUP = "neo_edge.commands"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_CLOSED_PIPE = 141  # 128 + SIGPIPE


class Command(Protocol):
    """What an entry point of the group `neo_edge.commands` names; the entry point's name is the verb."""

    summary: str  # one line for the list of verbs

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the verb's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Does the work and returns the exit status; `NeoEdgeError` becomes a message and status 1."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb of the installed stages; returns the exit status.

    0 success, 1 failure, 2 wrong usage or a missing extra, 130 interrupted, 141 when the reader of the
    output went away.
    """
    loaders = {entry.name: loader(entry) for entry in entry_points(group=GROUP)}
    return run_commands(list(sys.argv[1:] if argv is None else argv), loaders)


def run_commands(argv: list[str], loaders: Mapping[str, Callable[[], Command]]) -> int:
    """Runs one of these verbs; returns the exit status as `main` does."""
    try:
        status = _dispatch(argv, loaders)
        sys.stdout.flush()
    except MissingExtraError as error:
        return _fail(error, 2)
    except NeoEdgeError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


def _dispatch(argv: list[str], loaders: Mapping[str, Callable[[], Command]]) -> int:
    # Loading only the verb that was asked for keeps the start quick.
    asked = argv[:1] if argv and argv[0] in loaders else sorted(loaders)
    parser = argparse.ArgumentParser(
        prog="neo-edge", description="Exports NEO-ov checkpoints to bundles and answers questions with them."
    )
    parser.add_argument("--version", action="version", version=f"neo-edge {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    commands = {name: loaders[name]() for name in asked}
    for name, command in commands.items():
        verb = verbs.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(verb)
    args = parser.parse_args(argv)
    return commands[args.verb].run(args)


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


def _fail(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
