"""Runs a verb of `neo-edge` as a user would: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def neo_edge(*arguments: object) -> None:
    """Runs a verb that makes something; what it prints goes to standard error, where it is no evidence.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
    """
    subprocess.run(command(*arguments), stdout=sys.stderr, check=True)


def neo_edge_json(*arguments: object) -> dict[str, Any]:
    """What a verb prints with `--json`.

    Raises:
        subprocess.CalledProcessError: it prints nothing; what it says on standard error is why.
    """
    done = subprocess.run(command(*arguments, "--json"), stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command(*arguments: object) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "neo_edge.cli", *map(str, arguments)]
