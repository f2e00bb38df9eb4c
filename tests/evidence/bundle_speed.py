"""`neo-edge bench` with the PyTorch reference in turn, on a bundle of a preset's shape in float32."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import command, neo_edge
from preset_size import parameters, preset_model, require_disk

ITEM_BYTES = 2 + 4  # the checkpoint's bfloat16 and the bundle's float32


def main() -> int:
    """Prints the bench's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="500m")
    parser.add_argument("--layers", type=int, help="decoder layers (default: the preset's)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 5 GB of files lie meanwhile")
    args = parser.parse_args()
    require_disk(args.out, ITEM_BYTES * parameters(preset_model(args.preset, args.layers)))
    folder = Path(tempfile.mkdtemp(prefix="bundle-speed-", dir=args.out))
    # A short name, since the tables show it.
    checkpoint, bundle = folder / "checkpoint", folder / f"{args.preset}.bundle"
    depth = [] if args.layers is None else ["--layers", args.layers]
    try:
        neo_edge("make-checkpoint", "--preset", args.preset, *depth, "-o", checkpoint)
        neo_edge("export", checkpoint, "-o", bundle)
        options = ["--vs", "torch", "--checkpoint", checkpoint.name, "--repetitions", args.repetitions]
        line = command("bench", bundle.name, *options)
        return subprocess.run(line, cwd=folder, check=False).returncode
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
