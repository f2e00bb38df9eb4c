"""What the quantized variants of the nano checkpoint lose, by family of questions, beside float32.

Exports, calibrates and quantizes, then measures all variants in one pass, in which float32 answers once, and keeps
the figures in the bundle. Wanted is that the paired 95 % interval of the drop of accuracy lies under 1 point for 8 bits
and under 3 for 4 bits, in every family; that the manifest holds it; and that the report shows it. Both are read back.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any, cast

from command_line import neo_edge, neo_edge_json

from neo_edge.bundle import open_bundle

CHECKPOINT = "neo-ov-nano"
WANTED_POINTS = {"int8": 1, "int8-dynamic": 1, "int4": 3}  # by recipe, and so by the variant's name


def main() -> int:
    """Prints a table a recipe; 1 when a family misses, or manifest or report lack a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: {', '.join(WANTED_POINTS)}")
    parser.add_argument("--count", type=int, default=2000, help="scenes a family (default 2000)")
    parser.add_argument(
        "--processes", type=int, default=2, help="of one thread that share the questions (default 2)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the bundle and the reports, 40 MB (default: one in out/evidence, named after the recipes)",
    )
    args = parser.parse_args()
    unknown = sorted(set(args.recipes) - set(WANTED_POINTS))
    if unknown:
        parser.error(f"nothing is wanted of {', '.join(unknown)}: use {', '.join(WANTED_POINTS)}")
    recipes = [name for name in WANTED_POINTS if name in args.recipes or not args.recipes]
    out = args.out or Path("out/evidence") / "-".join(["quantized-accuracy", *args.recipes])
    bundle, page = out / "nano.bundle", out / "quality.html"
    out.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    profiles = ["--ops", "modern", "--ops", "portable"]
    neo_edge("export", CHECKPOINT, "-o", bundle, "--precision", "fp32", *profiles, "--overwrite")
    neo_edge("calibrate", bundle, "--data", "nano")
    for recipe in recipes:
        neo_edge("quantize", bundle, "--recipe", recipe, "--data", "none")
        print(f"{(time.monotonic() - began_s) / 60:.1f} min: made {recipe}", file=sys.stderr, flush=True)
    variants = [word for recipe in recipes for word in ("--variant", recipe)]
    measuring = ["--count", args.count, "--processes", args.processes, "--threads", 1, "--keep"]
    measured_s = time.monotonic()
    found = neo_edge_json("quality", bundle, *variants, "--reference", "fp32", *measuring, "--html", page)
    print(
        f"{CHECKPOINT}, {', '.join(recipes)} beside fp32: {args.count} scenes a family, measured in "
        f"{(time.monotonic() - measured_s) / 60:.1f} minutes by {args.processes} processes of one thread"
    )
    held = []
    for recipe in recipes:
        report = page if len(recipes) == 1 else page.with_stem(f"{page.stem}-{recipe}")
        held.append(_judge(recipe, bundle, report, found[recipe]))
    return 0 if all(held) else 1


def _judge(recipe: str, bundle: Path, report: Path, found: Mapping[str, Any]) -> bool:
    """Prints what the manifest says of a variant; whether all that is wanted is reached."""
    quality = cast("Mapping[str, Any]", open_bundle(bundle, verify="sha256").variant(recipe).quality)
    reached = _print(recipe, quality, WANTED_POINTS[recipe])
    same = all(quality.get(name) == value for name, value in found.items()) and "unmeasured" not in quality
    shown = _shown(report.read_text(encoding="utf-8"), quality)
    print(
        f"  the manifest of {bundle.name}, read back, holds these figures and the verdict '{quality['verdict']}': "
        f"{_yes(same)}\n"
        f"  {report.name}, one file of {report.stat().st_size / 1e3:.0f} kB, shows every interval: {_yes(shown)}",
        flush=True,
    )
    return reached and same and shown


def _print(recipe: str, quality: Mapping[str, Any], points: int) -> bool:
    tokens, size, before = quality["tokens"], quality["size_bytes"], quality["reference_size_bytes"]
    wanted = f"under {points} point{'s' if points > 1 else ''}"
    print(f"\n{recipe}, {quality['data']['source']}; wanted: the interval's upper end {wanted}")
    print(
        f"  {'family':12} {'before':>8} {'now':>8} {'lost':>5} {'gained':>6} {'drop':>6}  95 % interval, points"
    )
    passed = True
    for name, family in {**quality["families"], "all": quality["all"]}.items():
        held = 100 * family["drop_high"] < points
        print(
            f"  {name:12} {family['reference_accuracy']:8.2%} {family['accuracy']:8.2%} {family['lost']:5d} "
            f"{family['gained']:6d} {100 * family['drop']:6.2f}  {_interval(family):15} "
            f"{'reached' if held else 'MISSED'}"
        )
        passed &= held or name == "all"
    print(
        f"  same likeliest token {tokens['top1_agreement']:.3%}, KL mean {tokens['kl_mean']:.2e} and 99th percentile "
        f"{tokens['kl_p99']:.2e} nats\n"
        f"  perplexity {tokens['perplexity']:.4f} ({tokens['reference_perplexity']:.4f} before), "
        f"{size['total'] / 1e6:.2f} MB ({size['total'] / before['total']:.1%})"
    )
    return passed


def _shown(page: str, quality: Mapping[str, Any]) -> bool:
    """Whether the table of the report has each family with its interval, in one row."""
    rows = [unescape(row) for row in page.split("<tr") if "<td>" in row]
    families = quality["families"].items()
    return all(
        any(f"<td>{name}</td>" in row and f"<td>{_interval(family)}</td>" in row for row in rows)
        for name, family in families
    )


def _interval(family: Mapping[str, Any]) -> str:
    return f"{100 * family['drop_low']:.2f} to {100 * family['drop_high']:.2f}"


def _yes(held: bool) -> str:
    return "yes" if held else "NO"


if __name__ == "__main__":
    sys.exit(main())
