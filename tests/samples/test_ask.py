"""The sample that a user copies first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neo_edge_calibration.scenes import make_question

SAMPLE = Path(__file__).parents[2] / "samples" / "ask.py"


def ask(*arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE), *map(str, arguments)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, check=False, timeout=600)


def test_a_second_question_keeps_the_picture(nano_bundle: Path, tmp_path: Path) -> None:
    make_question("colour", 1, 0).images[0].save(tmp_path / "scene.png")
    done = ask(nano_bundle, tmp_path / "scene.png", typed="How many objects are there?\nAnd balls?\n\n")
    assert done.returncode == 0, done.stderr
    costs = [line for line in done.stdout.splitlines() if "new tokens" in line]
    assert len(costs) == 2
    assert costs[0].endswith("0 kept]")
    first, second = (int(line.split("[")[1].split()[0]) for line in costs)
    assert second < first
    kept = int(costs[1].split(",")[1].split()[0])
    assert kept >= first


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("no-bundle", "scene.png"), 1)])
def test_wrong_arguments_end_with_a_message(arguments: tuple[str, ...], status: int) -> None:
    done = ask(*arguments, typed="?\n")
    assert done.returncode == status
    assert done.stderr
    assert "Traceback" not in done.stderr
