"""`neo-edge export` in a process of its own, killed (SIGKILL) at random moments from its start to its end.

The run is cut into as many equal pieces as there are kills, and each kill comes at a random moment of its own piece, so
that loading, tracing, writing, comparing and finishing all get theirs. After each, whatever has the target's name must
be a whole bundle, and nothing else may load; the export after the last kill must work and clear up.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command_line import command, neo_edge

from neo_edge.bundle import open_bundle, verify_bundle
from neo_edge.errors import BundleError
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores

KILLS, SEED = 60, 20261122
_PHASE = re.compile(rb"^([a-z ]+): ", re.MULTILINE)


@dataclass
class Kills:
    """What the kills left behind."""

    whole_s: float  # the shortest of an export that was not killed
    moments_s: list[float] = field(default_factory=list)
    phases: Counter[str] = field(
        default_factory=Counter
    )  # the last that an export named before it was killed
    finished: int = 0  # were quicker than their killer
    half_written: list[str] = field(default_factory=list)  # what should not have been there, in words


def kill_exports(checkpoint: Path, folder: Path, kills: int, seed: int) -> Kills:
    """Exports into `folder` once, then is killed `kills` times, then exports once more.

    Raises:
        subprocess.CalledProcessError: an export that nobody killed failed.
        BundleError: the last one's bundle is not whole.
    """
    target, chosen = folder / "robot.bundle", random.Random(seed)
    found = Kills(_export(checkpoint, target))
    for piece in chosen.sample(range(kills), kills):
        _remove(target)
        moment_s = (piece + chosen.random()) / kills * found.whole_s
        started = time.perf_counter()
        finished, phase = _killed(checkpoint, target, moment_s)
        if finished:  # the first was slower, so later moments are taken of this one's time
            found.whole_s = min(found.whole_s, time.perf_counter() - started)
        found.moments_s.append(moment_s)
        found.finished += finished
        found.phases["finished" if finished else phase] += 1
        found.half_written += _half_written(folder, target, after=f"{moment_s:.2f} s, {phase}")
    _remove(target)
    _export(checkpoint, target)
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


def _export(checkpoint: Path, target: Path) -> float:
    started = time.perf_counter()
    subprocess.run(
        _line(checkpoint, target), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def _killed(checkpoint: Path, target: Path, after_s: float) -> tuple[bool, str]:
    """Whether it had ended by itself, and what it was busy with."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(_line(checkpoint, target), stdout=said, stderr=said) as child,
    ):
        try:
            finished = child.wait(after_s) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            finished = child.wait() == 0
        said.seek(0)
        phases = _PHASE.findall(said.read())
    return finished, f"behind {phases[-1].decode()}" if phases else "loading and tracing"


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


def _remove(target: Path) -> None:
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    if target.exists():
        target.rmdir()


def _line(checkpoint: Path, target: Path) -> Sequence[str]:
    return command("export", checkpoint, "-o", target, "--precision", "fp32")


if __name__ == "__main__":
    sys.exit(main())
