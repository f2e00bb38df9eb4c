"""`neo-edge calibrate` and `neo-edge quantize`, each killed (SIGKILL) at 20 random moments from start to end.

After each kill the bundle must verify and load, and the next run must work; what a run leaves in the end is the
bundle's files and no others. A calibration is taken up where it was, and its statistics must be, bit for bit, those of
a run that nobody killed. A variant is replaced each time, so the one before must stay until the new one is there.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bundle_leftovers import leftovers
from command_line import command, neo_edge
from killing import Ended, kills, run_program

import neo_edge as library
from neo_edge.bundle import verify_bundle

KILLS, SEED = 20, 20261123
SAMPLES = 256
COUNT = 4  # scenes of each of 15 families, that a variant is measured with
STATISTICS = Path("calibration") / "default.safetensors"
RECIPE = "int8-dynamic"


def main() -> int:
    """Prints what became of the kills; 1 when a bundle was damaged or a statistic differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help=f"of each verb (default {KILLS})")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # each load warns of a variant that so few questions measured
    with tempfile.TemporaryDirectory() as folder:
        exported, whole = Path(folder) / "nano.bundle", Path(folder) / "whole.bundle"
        neo_edge("export", "neo-ov-nano", "-o", exported)
        shutil.copytree(exported, whole, copy_function=os.link)
        wrong = _killed_calibrations(exported, whole, args.kills, args.seed)
        wrong += _killed_quantizing(whole, args.kills, args.seed)
    for problem in wrong:
        print(f"  WRONG: {problem}")
    return 1 if wrong else 0


def _killed_calibrations(exported: Path, whole: Path, count: int, seed: int) -> list[str]:
    whole_s = run_program(_calibrate(whole)).length
    wanted = (whole / STATISTICS).read_bytes()
    bundle, phases, steps, wrong = whole.with_name("killed.bundle"), Counter[str](), list[int](), list[str]()
    shutil.copytree(exported, bundle, copy_function=os.link)
    finished = 0
    for moment_s, ended in kills(
        lambda after_s: run_program(_calibrate(bundle), after_s), whole_s, count, seed
    ):
        phases[_phase(ended)] += 1
        steps.append(len(list(bundle.glob(".partial-calibrate-*/*.safetensors"))))
        wrong += _faults(bundle, "fp32", f"after {moment_s:.2f} s of calibrate")
        if ended.finished:
            finished += 1
            wrong += _statistics_faults(bundle, wanted)
            shutil.rmtree(bundle)
            shutil.copytree(exported, bundle, copy_function=os.link)
    run_program(_calibrate(bundle))
    wrong += _faults(bundle, "fp32", "at the end of calibrate") + _statistics_faults(bundle, wanted)
    _print(f"calibrate on {SAMPLES} scenes, {whole_s:.1f} s", count, seed, phases)
    print(f"  steps of 8 that were done after a kill, least to most    {min(steps)} to {max(steps)}")
    print(f"  runs that finished, compared with one that nobody killed  {finished + 1}")
    return wrong


def _killed_quantizing(bundle: Path, count: int, seed: int) -> list[str]:
    line = command(
        *("quantize", bundle, "--recipe", RECIPE, "--data", "nano", "--count", COUNT, "--threads", 1),
        *("--force", "--overwrite"),
    )
    whole_s = run_program(line).length
    phases, wrong = Counter[str](), list[str]()
    for moment_s, ended in kills(lambda after_s: run_program(line, after_s), whole_s, count, seed):
        phases[_phase(ended)] += 1
        wrong += _faults(bundle, RECIPE, f"after {moment_s:.2f} s of quantize")
    run_program(line)
    wrong += _faults(bundle, RECIPE, "at the end of quantize") + _more_files(bundle)
    _print(f"quantize by {RECIPE} and measure {15 * COUNT} questions, {whole_s:.1f} s", count, seed, phases)
    return wrong


def _calibrate(bundle: Path) -> list[str]:
    return command("calibrate", bundle, "--data", "nano", "--samples", SAMPLES, "--threads", 1)


def _phase(ended: Ended) -> str:
    if ended.finished:
        return "finished before its killer"
    return f"behind {ended.phase}" if ended.phase else "before its first message"


def _print(what: str, count: int, seed: int, phases: Counter[str]) -> None:
    print(f"{what}: killed {count} times, seed {seed}; verified and loaded after each")
    for phase, times in phases.items():
        print(f"  {phase:56} {times}")


def _faults(bundle: Path, variant: str, when: str) -> list[str]:
    """In words: why the bundle is not whole, or the variant does not load."""
    try:
        verify_bundle(bundle)
        library.load(bundle, variant=variant, threads=1).close()
    except library.errors.NeoEdgeError as error:
        return [f"{when}: {error}"]
    return []


def _statistics_faults(bundle: Path, wanted: bytes) -> list[str]:
    equal = (bundle / STATISTICS).read_bytes() == wanted
    return _more_files(bundle) + ([] if equal else ["the statistics differ from those of a whole run"])


def _more_files(bundle: Path) -> list[str]:
    return [f"{name} was left" for name in leftovers(bundle)]


if __name__ == "__main__":
    sys.exit(main())
