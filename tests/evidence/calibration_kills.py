"""Calibration, killed at 20 random points: the bundle loads and verifies, and a rerun gives the same bytes.

A run is timed whole; then runs over the same scenes are killed (SIGKILL) at random moments of that time, each taken
up by the next one while it is not finished, and begun anew in a fresh bundle when it is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from command_line import command, neo_edge

from neo_edge.bundle import verify_bundle

KILLS = 20
SAMPLES = 64
STATISTICS = Path("calibration") / "default.safetensors"


def main() -> int:
    """Prints what became of the kills; 1 when a bundle was damaged or a statistic differed."""
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "nano.bundle"
        neo_edge("export", "neo-ov-nano", "-o", exported)
        whole = _copy(exported, Path(folder) / "whole.bundle")
        started = time.monotonic()
        neo_edge(*_arguments(whole))
        took_s = time.monotonic() - started
        wanted = (whole / STATISTICS).read_bytes()
        rng, killed, finished, steps = Random(0), 0, 0, []
        while killed < KILLS:
            bundle = _copy(exported, Path(folder) / f"{finished}.bundle")
            while killed < KILLS and _killed(bundle, rng.uniform(0, took_s)):
                killed += 1
                steps.append(len(list(bundle.glob(".partial-calibrate-*/*.safetensors"))))
                verify_bundle(bundle)
            neo_edge(*_arguments(bundle))
            verify_bundle(bundle)
            assert not list(bundle.glob(".*")), "something was left"
            if (bundle / STATISTICS).read_bytes() != wanted:
                print(f"the statistics of run {finished} differ after {killed} kills")
                return 1
            finished += 1
    print(f"calibrate on {SAMPLES} scenes, killed {killed} times, verified after each")
    print(f"  runs that were finished with the bytes of an uninterrupted one  {finished}")
    print(f"  steps of 8 that were done when a run was killed, least to most  {min(steps)} to {max(steps)}")
    return 0


def _arguments(bundle: Path) -> list[object]:
    return ["calibrate", bundle, "--data", "nano", "--samples", SAMPLES, "--threads", 1]


def _copy(bundle: Path, target: Path) -> Path:
    shutil.copytree(bundle, target, copy_function=os.link)
    return target


def _killed(bundle: Path, after_s: float) -> bool:
    """Starts a run and kills it; False when it was done before."""
    running = subprocess.Popen(
        command(*_arguments(bundle)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)
    running.kill()
    return running.wait() == -signal.SIGKILL


if __name__ == "__main__":
    sys.exit(main())
