"""A small part of what `make evidence` does with 100,000 inputs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "evidence" / "fuzz.py"
INPUTS = 300


def test_300_broken_inputs_end_in_typed_errors_or_are_accepted() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--inputs", str(INPUTS), "--seed", "1"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{INPUTS} inputs, seed 1: 0 crashed" in done.stdout
    assert len(re.findall(r"^  .* inputs: ", done.stdout, re.MULTILINE)) == 5
