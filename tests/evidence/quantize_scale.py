"""What quantizing 2B's shape takes: the bytes of its 8-bit and 4-bit variants, and the memory while they are made.

Run on a few layers, and reckoned up to forty by the bytes of one; `--layers 40` makes the whole model. Weights are
random, so nothing is calibrated: recipes are taken without smoothing and compensation, which change no size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from command_line import neo_edge
from preset_size import parameters, preset_model, require_disk
from watched_process import watch

from neo_edge.bundle import open_bundle
from neo_edge.byte_size import show_bytes
from neo_edge_export.quantization.recipe import Recipe
from neo_edge_export.quantization.recipes import RECIPES

LAYERS = 40  # of NEO-ov 2B
LARGEST = {"int8-dynamic": 3.1e9, "int4": 1.9e9}  # bytes, token table included
MOST_MEMORY = 4 << 30  # anonymous


@dataclass(frozen=True)
class Measured:
    """One recipe."""

    size_bytes: int
    peak_bytes: int
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    require_disk(args.out, 4 * 3 * parameters(preset_model(args.preset, args.layers + 1)))
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        few, more = (measure(Path(folder), args.preset, layers) for layers in (args.layers, args.layers + 1))
    print(
        f"\n{args.preset}, fp32 to each recipe; sizes reckoned from {args.layers} and {args.layers + 1} layers\n"
    )
    print("| recipe | a layer | whole model, 40 layers | allowed | peak anonymous memory | seconds |")
    print("|---|---|---|---|---|---|")
    held = True
    for name, largest in LARGEST.items():
        layer = more[name].size_bytes - few[name].size_bytes
        whole = more[name].size_bytes + (LAYERS - args.layers - 1) * layer
        peak = more[name].peak_bytes
        held = held and whole <= largest and peak < MOST_MEMORY
        print(
            f"| {name} | {layer / 1e6:.1f} MB | {whole / 1e9:.3f} GB | {largest / 1e9:.1f} GB | {show_bytes(peak)} | "
            f"{more[name].seconds:.0f} |"
        )
    print(f"\n{'holds' if held else 'DOES NOT HOLD'}")
    return 0 if held else 1


def measure(folder: Path, preset: str, layers: int) -> dict[str, Measured]:
    """Makes the model, exports it, and quantizes it by each recipe."""
    checkpoint, bundle = folder / f"checkpoint-{layers}", folder / f"bundle-{layers}"
    neo_edge("make-checkpoint", "--preset", preset, "--layers", layers, "-o", checkpoint)
    neo_edge("export", checkpoint, "-o", bundle, "--verify-slice", "0:1")
    found = {}
    for name in LARGEST:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(asdict(without_calibration(RECIPES[name]))))
        run = watch("quantize", bundle, "--recipe", path, "--data", "none")
        variant = f"{name}/"
        files = open_bundle(bundle).manifest.files.items()
        size = sum(entry.size_bytes for file, entry in files if file.startswith(variant))
        found[name] = Measured(
            size, max(phase.peak_anonymous_bytes for phase in run.phases.values()), run.seconds
        )
    return found


def without_calibration(recipe: Recipe) -> Recipe:
    """The same types and sizes from the weights alone."""
    rows = [replace(row, rounding="nearest" if row.scheme == "w4" else row.rounding) for row in recipe.layers]
    return replace(recipe, layers=tuple(rows), smoothing=())


if __name__ == "__main__":
    sys.exit(main())
