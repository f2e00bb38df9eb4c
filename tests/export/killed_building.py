"""Builds of engines that are killed at random moments, and what they left; TensorRT is the fake one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bundle_leftovers import leftovers
from fake_tensorrt import H100, fake_installed
from killing import kills, run_function

from neo_edge.bundle import open_bundle
from neo_edge_export.tensorrt.engine_builder import BuildRequest, build_engines


@dataclass(frozen=True)
class Left:
    """A bundle after a kill; it was verified."""

    finished: bool  # the run was quicker than its killer
    engines: list[str]
    half_made: bool  # something is there that the manifest does not name


def killed_building(bundle: Path, count: int, seed: int) -> list[Left]:
    """Builds engines, is killed `count` times while it builds them anew, and does it once more."""
    work = partial(_build, bundle)
    whole = run_function(work).length
    found = []
    for _, ended in kills(partial(run_function, work), whole, count, seed):
        manifest = open_bundle(bundle).manifest
        found.append(Left(ended.finished, list(manifest.engines), bool(leftovers(bundle))))
    run_function(work)
    return found


def _build(bundle: Path) -> None:
    request = BuildRequest("tensorrt", max_context=64, max_chunk=32, overwrite=True)
    installed, _ = fake_installed()
    build_engines(bundle, request, installed=installed, driver=H100)
