"""Exports that are killed at random moments; prints what was left, as JSON. Run as a program by its test.

A child is forked for each export, so that importing torch and tracing, which writes nothing, are paid once. Prints
one JSON object: how long a whole
export takes, at which moments the others were killed, and what stood in the target's folder afterwards.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import neo_edge
from neo_edge.config import load_config
from neo_edge.errors import BundleError
from neo_edge_export import bundle_export
from neo_edge_export.bundle_export import ExportOptions, export_bundle

torch.set_num_threads(1)


def main(checkpoint: Path, folder: Path, kills: int, seed: int) -> None:
    """Exports once, then is killed `kills` times, then exports once more."""
    target = folder / "robot.bundle"
    traced = bundle_export._trace(load_config(checkpoint), "fp32", ["modern"])
    bundle_export._trace = lambda *_: traced
    whole_s = _export(checkpoint, folder / "first.bundle", None)
    chosen = random.Random(seed)
    moments, left = [], []
    for _ in range(kills):
        moment = chosen.uniform(0, whole_s)
        _export(checkpoint, target, moment)
        moments.append(round(moment, 4))
        left.append({"names": sorted(os.listdir(folder)), "loads": _loads(folder, target)})
        if target.exists():  # the export was quicker than its killer
            target.rename(folder / f"finished-{len(moments)}.bundle")
    _export(checkpoint, target, None)
    report = {"whole_s": whole_s, "moments": moments, "left": left, "after": sorted(os.listdir(folder))}
    print(json.dumps(report))


def _export(checkpoint: Path, target: Path, kill_after_s: float | None) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            export_bundle(checkpoint, target, ExportOptions())
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status == 0 or kill_after_s is not None, "an export that nobody killed failed"
    return time.perf_counter() - started


def _loads(folder: Path, target: Path) -> list[str]:
    """Everything in the folder that opens as a bundle, but for those that were finished before."""
    found = []
    for path in folder.iterdir():
        try:
            neo_edge.load(path, threads=1, verify="sha256").close()
        except BundleError:
            continue
        found.append(path.name)
    return [name for name in found if name == target.name or name.startswith(".")]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
