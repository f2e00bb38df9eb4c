"""Fills of the cache that are killed at random moments; prints what was left, as JSON. Run as a program by its test."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from neo_edge.bundle import open_bundle
from neo_edge_runtime.prepacked import PrepackedCache
from neo_edge_runtime.prepacked_build import build_prepacked


def main(bundle: Path, kills: int, seed: int) -> None:
    """Builds once, is killed `kills` times, then builds once more."""
    cache, chosen = PrepackedCache(), random.Random(seed)
    whole_s = _build(bundle, None)
    left = []
    for _ in range(kills):
        for name in cache.names():
            cache.remove(name)
        _build(bundle, chosen.uniform(0, whole_s))
        found = [cache.find(name) for name in cache.names()]
        left.append({"whole": len(found), "partial": len(os.listdir(cache.folder)) - len(found)})
    _build(bundle, None)
    print(json.dumps({"left": left, "after": sorted(os.listdir(cache.folder))}))


def _build(bundle: Path, kill_after_s: float | None) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            build_prepacked(open_bundle(bundle), "fp32")
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status == 0 or kill_after_s is not None, "a build that nobody killed failed"
    return time.perf_counter() - started


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
