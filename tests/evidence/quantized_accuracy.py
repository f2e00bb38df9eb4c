"""What the quantized variants of the nano checkpoint lose, by family of questions, beside float32.

Exports, calibrates and quantizes, then measures all variants in one pass, in which float32 answers once. Wanted is
that the paired 95 % interval of the drop of accuracy lies under 1 point for 8 bits and under 3 for 4 bits, in every
family.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command_line import neo_edge, neo_edge_json

from neo_edge_runtime.processors import usable_physical_cores

CHECKPOINT = "neo-ov-nano"
WANTED_POINTS = {"int8": 1, "int8-dynamic": 1, "int4": 3}  # by recipe, and so by the variant's name


def main() -> int:
    """Prints a table a recipe; 1 when a family misses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: {', '.join(WANTED_POINTS)}")
    parser.add_argument("--count", type=int, default=2000, help="scenes a family (default 2000)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="keep the report, or one beside it a recipe"
    )
    args = parser.parse_args()
    unknown = sorted(set(args.recipes) - set(WANTED_POINTS))
    if unknown:
        parser.error(f"nothing is wanted of {', '.join(unknown)}: use {', '.join(WANTED_POINTS)}")
    recipes = [name for name in WANTED_POINTS if name in args.recipes or not args.recipes]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "nano.bundle"
        neo_edge(
            "export", CHECKPOINT, "-o", bundle, "--precision", "fp32", "--ops", "modern", "--ops", "portable"
        )
        neo_edge("calibrate", bundle, "--data", "nano")
        for recipe in recipes:
            neo_edge("quantize", bundle, "--recipe", recipe, "--data", "none")
        variants = [word for recipe in recipes for word in ("--variant", recipe)]
        measuring = ["--count", args.count, "--processes", usable_physical_cores(), "--threads", 1]
        page = [] if args.html is None else ["--html", args.html]
        found = neo_edge_json("quality", bundle, *variants, "--reference", "fp32", *measuring, *page)
    held = [_print(recipe, found[recipe], WANTED_POINTS[recipe]) for recipe in recipes]
    return 0 if all(held) else 1


def _print(recipe: str, quality: Mapping[str, Any], points: int) -> bool:
    tokens, size, before = quality["tokens"], quality["size_bytes"], quality["reference_size_bytes"]
    print(
        f"\n{CHECKPOINT}, {recipe} beside {quality['reference']}: {quality['data']['source']}; wanted under "
        f"{points} point{'s' if points > 1 else ''}"
    )
    print(
        f"  {'family':12} {'before':>8} {'now':>8} {'lost':>5} {'gained':>6} {'drop':>6}  95 % interval, points"
    )
    passed = True
    for name, family in {**quality["families"], "all": quality["all"]}.items():
        low, high = 100 * family["drop_low"], 100 * family["drop_high"]
        held = name == "all" or high < points
        print(
            f"  {name:12} {family['reference_accuracy']:8.2%} {family['accuracy']:8.2%} {family['lost']:5d} "
            f"{family['gained']:6d} {100 * family['drop']:6.2f}  {low:5.2f} to {high:5.2f}{'' if held else '  MISSED'}"
        )
        passed &= held
    print(
        f"  same likeliest token {tokens['top1_agreement']:.3%}, KL mean {tokens['kl_mean']:.2e} and 99th percentile "
        f"{tokens['kl_p99']:.2e} nats\n"
        f"  perplexity {tokens['perplexity']:.4f} ({tokens['reference_perplexity']:.4f} before), "
        f"{size['total'] / 1e6:.2f} MB ({size['total'] / before['total']:.1%})",
        flush=True,
    )
    return passed


if __name__ == "__main__":
    sys.exit(main())
