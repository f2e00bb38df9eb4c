"""Accuracy of the nano checkpoint on scenes that training never saw, with the right pictures and with others'.

A model that only guesses keeps its accuracy when another scene's pictures are shown; one that sees falls to what
the best constant answer gets.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from command_line import neo_edge, neo_edge_json

CHECKPOINT = "neo-ov-nano"
VARIANTS = ("fp32", "fp16")
LEAST_ACCURACY = 0.95
MOST_ABOVE_CONSTANT = 0.05  # of the accuracy with another scene's pictures

Families = dict[str, dict[str, Any]]


def main() -> int:
    """Prints a table a variant and seed; 1 when a family misses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="may be repeated (default: 1001)")
    parser.add_argument("--count", type=int, default=500, help="scenes a family (default 500)")
    args = parser.parse_args()
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "nano.bundle"
        precisions = [argument for variant in VARIANTS for argument in ("--precision", variant)]
        neo_edge("export", CHECKPOINT, "-o", bundle, *precisions)
        for seed in args.seed or [1001]:
            found = _evaluate(bundle, seed, args.count)
            for variant in VARIANTS:
                print(f"\n{CHECKPOINT}, {variant}, seed {seed}, {args.count} scenes a family")
                passed &= _print(found[variant, False], found[variant, True])
    return 0 if passed else 1


def _evaluate(bundle: Path, seed: int, count: int) -> dict[tuple[str, bool], Families]:
    """By variant, and whether pictures were swapped; one process a core, each with one thread."""

    def evaluate(job: tuple[str, bool]) -> Families:
        variant, swapped = job
        options = ["--variant", variant, "--seed", seed, "--count", count, "--threads", 1]
        families: Families = neo_edge_json("eval", bundle, *options, *["--swap-images"] * swapped)["families"]
        return families

    jobs = list(product(VARIANTS, (False, True)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(evaluate, jobs), strict=True))


def _print(own: Families, swapped: Families) -> bool:
    print(f"  {'family':24} {'accuracy':>9} {'other pictures':>15} {'best constant':>14}")
    passed = True
    for name, score in own.items():
        accuracy, blind, constant = score["accuracy"], swapped[name]["accuracy"], score["best_constant"]
        sees = accuracy >= LEAST_ACCURACY and blind <= constant + MOST_ABOVE_CONSTANT
        print(f"  {name:24} {accuracy:9.1%} {blind:15.1%} {constant:14.1%} {'' if sees else 'MISSED'}")
        passed &= sees
    return passed


if __name__ == "__main__":
    sys.exit(main())
