"""`neo-edge export` in a process of its own, killed (SIGKILL) at random moments from its start to its end.

Loading, tracing, writing, comparing and finishing all get theirs. After each kill, whatever has the target's name must
be a whole bundle, and nothing else may load; the export after the last kill must work and clear up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from command_line import command, neo_edge
from killing import kills, run_program

from neo_edge.bundle import open_bundle, verify_bundle
from neo_edge.errors import BundleError
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores

KILLS, SEED = 60, 20261122


@dataclass
class Kills:
    """What the kills left behind."""

    whole_s: float  # of an export that was not killed
    moments_s: list[float] = field(default_factory=list)
    phases: Counter[str] = field(
        default_factory=Counter
    )  # the last that an export named before it was killed
    finished: int = 0  # were quicker than their killer
    half_written: list[str] = field(default_factory=list)  # what should not have been there, in words


def kill_exports(checkpoint: Path, folder: Path, count: int, seed: int) -> Kills:
    """Exports into `folder` once, then is killed `count` times, then exports once more.

    Raises:
        RuntimeError: an export failed by itself.
        BundleError: the last one's bundle is not whole.
    """
    target = folder / "robot.bundle"
    line = command("export", checkpoint, "-o", target, "--precision", "fp32")
    found = Kills(run_program(line).length)
    shutil.rmtree(target)
    for moment_s, ended in kills(lambda after_s: run_program(line, after_s), found.whole_s, count, seed):
        phase = f"behind {ended.phase}" if ended.phase else "loading and tracing"
        found.moments_s.append(moment_s)
        found.finished += ended.finished
        found.phases["finished" if ended.finished else phase] += 1
        found.half_written += _half_written(folder, target, after=f"{moment_s:.2f} s, {phase}")
        shutil.rmtree(target, ignore_errors=True)
    run_program(line)
    verify_bundle(target)
    found.half_written += [f"{name} at the end" for name in os.listdir(folder) if name != target.name]
    return found


def main() -> int:
    """Prints what was found; 1 when anything was half-written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    describe_device(usable_physical_cores())
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, folder = Path(temporary) / "checkpoint", Path(temporary) / "out"
        folder.mkdir()
        neo_edge("make-checkpoint", "--preset", "tiny", "-o", checkpoint)
        found = kill_exports(checkpoint, folder, args.kills, args.seed)
    print(
        f"\nan export of the tiny preset takes {found.whole_s:.1f} s; killed {args.kills} times, seed {args.seed}"
    )
    for phase, times in found.phases.items():
        print(f"  {phase:28} {times}")
    print(f"  {'half-written':28} {len(found.half_written)}, allowed 0")
    for left in found.half_written:
        print(f"    {left}")
    return 1 if found.half_written else 0


def _half_written(folder: Path, target: Path, *, after: str) -> list[str]:
    """In words: what has the target's name and is not whole, what else loads, and what is more than leftovers."""
    wrong = []
    leftovers = [path for path in folder.iterdir() if path != target]
    if target.exists():
        try:
            verify_bundle(target)
        except BundleError as error:
            wrong.append(f"the target after {after}: {error}")
    for path in leftovers:
        if not path.name.startswith(f".{target.name}.partial-"):
            wrong.append(f"{path.name} after {after}")
        try:
            open_bundle(path)
        except BundleError:
            continue
        wrong.append(f"{path.name} loads after {after}")
    if len(leftovers) > 1:  # each export removes those of the one before
        wrong.append(f"{len(leftovers)} leftovers after {after}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
