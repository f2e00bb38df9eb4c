"""`neo-edge export`: reads the arguments, prints what was found; the work is in `bundle_export.py`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.extras import require
from neo_edge.shown import shown
from neo_edge_runtime.commands.model_arguments import count

if TYPE_CHECKING:
    from neo_edge_export.verification import Verification

CHECKPOINT_HELP = (
    "a directory with config.json and safetensors files; neo-ov-nano, which ships with the package; or a Hugging Face "
    "id such as Paranioar/NEO1_0-2B-SFT, perhaps with @REVISION"
)
_PACKAGES = ("torch", "onnx_ir", "onnxruntime")


class ExportCommand:
    """Writes a checkpoint as a bundle of ONNX graphs."""

    summary = "write a NEO-ov checkpoint as a bundle of ONNX graphs, compared with the reference"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.add_argument(
            "checkpoint",
            metavar="CHECKPOINT",
            help=CHECKPOINT_HELP,
        )
        parser.add_argument(
            "-o", "--output", required=True, type=Path, metavar="BUNDLE", help="directory to write"
        )
        self.add_options(parser)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declares how to export; what and where to are `add_arguments`'."""
        parser.add_argument(
            "--precision",
            action="append",
            choices=("fp32", "fp16"),
            help="type of weights and caches; may be given more than once (default: fp32)",
        )
        parser.add_argument(
            "--ops",
            action="append",
            choices=("modern", "portable"),
            help="modern: opset 24, for ONNX Runtime >= 1.25; portable: plain operators of opset 20, for TensorRT and "
            "what is older; may be given more than once (default: modern)",
        )
        parser.add_argument(
            "--verify-layers",
            type=count,
            metavar="N",
            help="decoder layers that are compared with the reference at a time (default: as many as fit in a "
            "gigabyte)",
        )
        parser.add_argument(
            "--verify-slice",
            type=_layers,
            metavar="FIRST:STOP",
            help="compare only these decoder layers, such as 0:2, which the bundle then says; for tests of large "
            "models (default: all)",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace the bundle that is there")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Exports, and prints the largest differences from the reference."""
        for package in _PACKAGES:
            require(package, extra="export")
        from neo_edge.checkpoint import resolve_checkpoint
        from neo_edge_export.bundle_export import ExportOptions, export_bundle

        options = ExportOptions(
            precisions=args.precision or ("fp32",),
            ops=args.ops or ("modern",),
            overwrite=args.overwrite,
            verify_layers=args.verify_layers,
            verify_slice=args.verify_slice,
        )
        found = export_bundle(resolve_checkpoint(args.checkpoint), args.output, options)
        if args.json:
            variants = {name: verification.to_json() for name, verification in found.items()}
            print(json.dumps({"bundle": str(args.output), "verification": variants}, indent=2))
        else:
            _print(found, args.output)
        return 0


export_command = ExportCommand()


def _print(found: Mapping[str, Verification], bundle: Path) -> None:
    print("largest difference from the reference, and largest activation in float16 (allowed)")
    for name, verification in found.items():
        for check in verification.checks:
            print(f"  {name:14} {check.of:16} {check.largest:.2e} ({check.allowed:.2e})")
    layers = next(iter(found.values())).layers
    print(f"compared: decoder layers {layers.start} to {layers.stop - 1}")
    print(f"wrote {bundle}")


def _layers(text: str) -> range:
    first, _, stop = text.partition(":")
    try:
        return range(int(first), int(stop))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no slice of layers, such as 0:2") from None
