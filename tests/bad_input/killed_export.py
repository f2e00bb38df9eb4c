"""Exports that are killed at random moments, and what they left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from killing import kills, run_function

import neo_edge
from neo_edge.config import load_config
from neo_edge.errors import BundleError
from neo_edge_export import bundle_export
from neo_edge_export.bundle_export import ExportOptions, export_bundle


@dataclass(frozen=True)
class Left:
    """What stood in the target's folder after a kill."""

    names: list[str]
    loads: list[str]  # everything that opens as a bundle, but for those that were finished before


def killed_exports(checkpoint: Path, folder: Path, count: int, seed: int) -> list[Left]:
    """Exports once, then is killed `count` times, then exports once more.

    Each export is a fork of this process, so that importing torch and tracing, which writes nothing, are paid once.
    """
    import torch

    torch.set_num_threads(1)
    target = folder / "robot.bundle"
    traced = bundle_export._trace(load_config(checkpoint), "fp32", ["modern"])
    bundle_export._trace = lambda *_: traced

    def export() -> None:
        export_bundle(checkpoint, target, ExportOptions())

    whole = run_function(export).length
    target.rename(folder / "first.bundle")
    left: list[Left] = []
    for _ in kills(lambda calls: run_function(export, calls), whole, count, seed):
        left.append(Left(sorted(os.listdir(folder)), _loads(folder, target)))
        if target.exists():  # the export was quicker than its killer
            target.rename(folder / f"finished-{len(left)}.bundle")
    run_function(export)
    return left


def _loads(folder: Path, target: Path) -> list[str]:
    found = []
    for path in folder.iterdir():
        try:
            neo_edge.load(path, threads=1, verify="sha256").close()
        except BundleError:
            continue
        found.append(path.name)
    return [name for name in found if name == target.name or name.startswith(".")]
