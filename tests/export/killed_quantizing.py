"""Quantizing that is killed at random moments, and what it left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bundle_leftovers import leftovers
from killing import kills, run_function

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge_export.quantization.quantize import QuantizeOptions, quantize
from neo_edge_export.quantization.recipe import LayerRule, Recipe

RECIPE = Recipe("plain", "", "modern", (LayerRule("*", "w8a8-token", "clipped"),))


@dataclass(frozen=True)
class Left:
    """A bundle after a kill; it was verified, and the variant loaded where there is one."""

    finished: bool  # the run was quicker than its killer
    variants: list[str]
    half_made: bool  # something is there that the manifest does not name


def killed_quantizing(bundle: Path, count: int, seed: int) -> list[Left]:
    """Adds a variant, is killed `count` times while it replaces it, and replaces it once more."""
    whole = run_function(partial(_quantize, bundle)).length
    found = []
    for _, ended in kills(lambda calls: run_function(partial(_quantize, bundle), calls), whole, count, seed):
        manifest = open_bundle(bundle).manifest
        neo_edge.load(bundle, variant=RECIPE.name, threads=1).close()
        found.append(Left(ended.finished, list(manifest.variants), bool(leftovers(bundle))))
    run_function(partial(_quantize, bundle))
    return found


def _quantize(bundle: Path) -> None:
    quantize(open_bundle(bundle), RECIPE, None, QuantizeOptions(overwrite=True))
