"""Environments that peers live in: a virtual environment each, with pinned versions, kept in neo_edge's cache folder.

Nothing is installed into the environment that runs the benchmark. An environment is made once; one whose pins have
changed is made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neo_edge_runtime.cache_folder import cache_folder

# Taken once: a benchmark may give neo_edge a cache folder of its own afterwards.
PEERS = cache_folder() / "peers"
_STAMP = "ready.txt"  # what was installed; written last
_PIP = ("-m", "pip", "install", "--disable-pip-version-check")


@dataclass(frozen=True)
class PeerEnvironment:
    """What a peer needs."""

    name: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()  # installed behind the others, alone
    variables: Mapping[str, str] = field(default_factory=dict)  # while pip builds
    note: str = ""  # what it takes, for the reader

    @property
    def folder(self) -> Path:
        """Where it is or will be."""
        return PEERS / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def pins(self) -> str:
        """What must be equal for an environment to be used again."""
        lines = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
        lines += [*self.requirements, *(f"{name} alone" for name in self.without_dependencies)]
        return "\n".join([*lines, *(f"{key}={value}" for key, value in self.variables.items())]) + "\n"

    @property
    def is_ready(self) -> bool:
        """Whether it is there with these pins."""
        stamp = self.folder / _STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.pins

    def make(self) -> Path:
        """Makes it unless it is there; its interpreter.

        Raises:
            SystemExit: pip failed; what it says is on standard error. The next call begins anew.
        """
        if self.is_ready:
            return self.python
        print(
            f"making {self.folder} ({self.note or 'once'}): {', '.join(self.pins.split())}", file=sys.stderr
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            subprocess.run([sys.executable, "-m", "venv", self.folder], stdout=sys.stderr, check=True)
            self._pip(*self.requirements)
            if self.without_dependencies:
                self._pip("--no-deps", *self.without_dependencies)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"the environment {self.name} cannot be made: {error}. Its packages come from pip's index: see above"
            ) from error
        (self.folder / _STAMP).write_text(self.pins, encoding="utf-8")
        return self.python

    def _pip(self, *arguments: str) -> None:
        subprocess.run(
            [self.python, *_PIP, *arguments],
            stdout=sys.stderr,
            env={**os.environ, **self.variables},
            check=True,
        )
