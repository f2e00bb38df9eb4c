"""A calibration that is killed again and again, each time taken up by the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from calibration_bundle import leftovers, questions, quick_calibrate
from killing import run_function

from neo_edge.bundle import verify_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge_calibration.observation.run_state import STATE

SAMPLES = 24


@dataclass(frozen=True)
class Killed:
    """What a kill met and left."""

    calibrations: list[str]  # of the bundle, which was verified
    steps: int  # that were done


def calibrate_killed_at(whole: Path, bundle: Path, steps: Sequence[int], seed: int) -> list[Killed]:
    """Calibrates the one bundle whole; the other is killed at a random moment behind each of these steps."""
    run_function(partial(_calibrate, whole))
    rng, found = Random(seed), []
    for least in steps:
        ended = run_function(
            partial(_never_finish, bundle), partial(_waited, bundle, least, rng.uniform(0, 0.05))
        )
        names = list(verify_bundle(bundle).manifest.calibrations)
        assert not ended.finished
        found.append(Killed(names, _steps_done(bundle)))
    run_function(partial(_calibrate, bundle))
    return found


def _calibrate(bundle: Path) -> None:
    quick_calibrate(bundle, questions(SAMPLES), samples=SAMPLES)


def _never_finish(bundle: Path) -> None:
    """Its killer may be late."""
    BundleUpdate.commit = lambda *_: time.sleep(1000)  # type: ignore[assignment, method-assign]
    _calibrate(bundle)


def _waited(bundle: Path, steps: int, delay_s: float) -> bool:
    reached = bool(leftovers(bundle)) and _steps_done(bundle) >= steps
    if reached:
        time.sleep(delay_s)
    return reached


def _steps_done(bundle: Path) -> int:
    return len(list(bundle.glob(f"{STATE}*/*.safetensors")))
