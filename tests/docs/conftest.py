"""The folder that a page's examples run in."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from doc_blocks import EXPORT, ROOT, Run, shell


class Exports:
    """Runs each export once, for all pages that show it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done: dict[str, subprocess.CompletedProcess[str]] = {}
        (folder / "tests").symlink_to(ROOT / "tests")

    def run(self, command: str, workspace: Path) -> subprocess.CompletedProcess[str]:
        """What the export printed; its bundle is in the workspace then."""
        words = shlex.split(command)
        bundle = words[words.index("-o") + 1]
        if command not in self._done:
            self._done[command] = shell(command, self._folder)
        if (self._folder / bundle).exists():
            shutil.copytree(self._folder / bundle, workspace / bundle, dirs_exist_ok=True)
        return self._done[command]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def run(exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a page's commands in a folder that holds `nano.bundle`, `scene.png` and the repository's golden files."""
    from neo_edge_calibration.scenes import make_question

    exported = exports.run(EXPORT, tmp_path)
    assert exported.returncode == 0, exported.stderr
    make_question("colour", 1, 0).images[0].save(tmp_path / "scene.png")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.setenv("NEO_EDGE_CACHE_DIR", str(tmp_path / "prepacked-cache"))
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return (
            exports.run(command, tmp_path)
            if command.startswith("neo-edge export ")
            else shell(command, tmp_path)
        )

    return run
