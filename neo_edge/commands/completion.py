"""`neo-edge completion`: what makes a shell complete verbs, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path

from neo_edge.extras import require

SHELLS = ("bash", "zsh", "fish")

_EXAMPLES = """\
Run the line of your shell once; new shells then complete:
  bash  neo-edge completion bash >> ~/.bash_completion
  zsh   neo-edge completion zsh > ~/.zfunc/_neo-edge   # a folder in your $fpath
  fish  neo-edge completion fish > ~/.config/fish/completions/neo-edge.fish
Run it again when another package has brought verbs.
"""


class CompletionCommand:
    """Prints a shell's completion script; it runs no Python when it completes."""

    summary = "print a script that lets the shell complete neo-edge"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the shell."""
        parser.add_argument("shell", choices=SHELLS, help="whose script to print")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Prints it."""
        from neo_edge.cli import build_parser, installed_commands

        shtab = require("shtab", extra="completion")
        parser = build_parser({name: load() for name, load in sorted(installed_commands().items())})
        for action in _actions(parser):
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # which shtab looks for
        print(shtab.complete(parser, shell=args.shell))
        return 0


completion_command = CompletionCommand()


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                found += _actions(verb)
    return found
