"""`optimum-cli export neo-edge`, in the real Optimum.

NEO_EDGE_OPTIMUM names a folder with that package alone (pip install --no-deps --target FOLDER optimum==2.3.0): its
command line needs none of its dependencies, transformers among them, which weigh a hundred times as much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neo_edge.bundle import verify_bundle

FOLDER = os.environ.get("NEO_EDGE_OPTIMUM")
needs_optimum = pytest.mark.skipif(not FOLDER, reason="NEO_EDGE_OPTIMUM names no folder with Optimum")


def optimum_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_optimum
def test_optimum_lists_the_command_and_its_options() -> None:
    listed = optimum_cli("export", "--help")
    assert listed.returncode == 0, listed.stderr
    assert "Export NEO-ov checkpoints to neo_edge bundles" in listed.stdout
    shown = optimum_cli("export", "neo-edge", "--help").stdout
    for option in ("--model MODEL", "--precision", "--ops", "--overwrite", "--json", "OUT"):
        assert option in shown


@needs_optimum
def test_optimum_exports_a_bundle(golden_tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.bundle"
    done = optimum_cli("export", "neo-edge", "--model", golden_tiny, target, "--ops", "portable", "--json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["verification"]) == ["fp32-portable"]
    verify_bundle(target)


@needs_optimum
def test_failures_in_optimum_are_those_of_neo_edge(golden_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    taken = optimum_cli("export", "neo-edge", "-m", golden_tiny, tmp_path / "taken")
    assert (taken.returncode, taken.stdout) == (1, "")
    assert "exists already" in taken.stderr.splitlines()[-1]
    assert "Traceback" not in taken.stderr
    assert optimum_cli("export", "neo-edge", tmp_path / "no-model").returncode == 2


def test_nothing_of_neo_edge_imports_optimum() -> None:
    code = (
        "import sys\n"
        "from neo_edge import cli\n"
        "import neo_edge_export.commands, neo_edge_export.bundle_export\n"
        "for load in cli.installed_commands().values(): load()\n"
        "print(*(name for name in sys.modules if name.partition('.')[0] == 'optimum'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
