"""Fills of the prepacked cache that are killed at random moments, and what they left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from killing import kills, run_function

from neo_edge.bundle import open_bundle
from neo_edge_runtime.prepacked import PrepackedCache
from neo_edge_runtime.prepacked_build import build_prepacked


@dataclass(frozen=True)
class Left:
    """How many entries a kill left."""

    whole: int  # `find` raises for one that has its name and is not whole
    partial: int


def killed_fills(bundle: Path, count: int, seed: int, variant: str = "fp32") -> list[Left]:
    """Builds once, is killed `count` times, then builds once more."""
    cache, left = PrepackedCache(), []

    def build() -> None:
        build_prepacked(open_bundle(bundle), variant)

    whole = run_function(build).length
    _empty(cache)
    for _ in kills(lambda calls: run_function(build, calls), whole, count, seed):
        found = [cache.find(name) for name in cache.names()]
        left.append(Left(len(found), len(os.listdir(cache.folder)) - len(found)))
        _empty(cache)
    run_function(build)
    return left


def _empty(cache: PrepackedCache) -> None:
    for name in cache.names():
        cache.remove(name)
