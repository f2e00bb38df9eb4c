"""`neo-edge make-checkpoint`: random weights in a real model's shape."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from neo_edge.byte_size import show_bytes
from neo_edge.checkpoint_presets import PRESETS, WEIGHT_DTYPES, preset_config
from neo_edge.progress import progress
from neo_edge.shown import shown

_EXAMPLES = """\
examples:
  neo-edge make-checkpoint --preset tiny -o tiny-checkpoint
  neo-edge make-checkpoint --preset 9b --layers 4 -o slice-of-9b

The weights are random, so its answers mean nothing: it is to measure with.
No tokenizer comes with it: ask its bundle with `neo-edge run --token-ids`.
"""


class MakeCheckpointCommand:
    """Writes a checkpoint with random weights."""

    summary = "write a checkpoint of real shape with random weights"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "--preset", required=True, choices=PRESETS, help="2b and 9b are NEO-ov's published sizes"
        )
        parser.add_argument("--layers", type=int, metavar="N", help="decoder layers (default: the preset's)")
        parser.add_argument(
            "--seed", type=_seed, default=0, metavar="N", help="of the random numbers (default 0)"
        )
        parser.add_argument(
            "--dtype", choices=WEIGHT_DTYPES, default="bfloat16", help="of the weights (default bfloat16)"
        )
        parser.add_argument(
            "-o", "--output", required=True, type=Path, metavar="DIR", help="directory to make"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Writes it and says how large it is."""
        from neo_edge.checkpoint import expected_tensors
        from neo_edge.config import parse_config
        from neo_edge.random_checkpoint import write_random_checkpoint
        from neo_edge.safetensors_shards import ITEM_BYTES

        raw = preset_config(args.preset, layers=args.layers, dtype=args.dtype)
        parameters = sum(map(math.prod, expected_tensors(parse_config(raw)).values()))
        item_bytes = ITEM_BYTES["F32" if args.dtype == "float32" else "F16"]
        with progress(parameters * item_bytes, "writing weights", "B") as bar:
            checkpoint = write_random_checkpoint(
                args.output, raw, dtype=args.dtype, seed=args.seed, on_bytes=bar.update
            )
        files = sorted({entry.file.name for entry in checkpoint.tensors.values()})
        size_bytes = sum(entry.size_bytes for entry in checkpoint.tensors.values())
        if args.json:
            report = {
                "checkpoint": str(args.output),
                "preset": args.preset,
                "layers": checkpoint.config.decoder.num_layers,
                "dtype": args.dtype,
                "seed": args.seed,
                "parameters": parameters,
                "tensors": len(checkpoint.tensors),
                "size_bytes": size_bytes,
                "files": files,
                "tokenizer": False,
            }
            print(json.dumps(report, indent=2))
            return 0
        print(
            f"wrote {args.output}: {parameters:,} random parameters in {len(checkpoint.tensors)} tensors, "
            f"{show_bytes(size_bytes)} in {len(files)} file{'s' if len(files) > 1 else ''}"
        )
        print("it has no tokenizer: ask its bundle with `neo-edge run --token-ids`")
        return 0


make_checkpoint_command = MakeCheckpointCommand()


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number from 0 on")
    return int(text)
