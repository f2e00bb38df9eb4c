"""`neo-edge quantize`: arguments and printing; heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import QuantizationError
from neo_edge.extras import require
from neo_edge_runtime.commands.model_arguments import add_bundle_argument

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge_calibration.quality import QualityData
    from neo_edge_export.quantization.quantize import Quantized

_PACKAGES = {"onnx_ir": "calibrate", "onnxruntime": "cpu", "safetensors": "calibrate"}  # and their extras
_SCENES, _NONE = "nano", "none"
_NANO = "neo-ov-nano"


class QuantizeCommand:
    """Makes a smaller variant of a bundle."""

    summary = "add an 8-bit or 4-bit variant to a bundle, measured beside the float one"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        parser.add_argument(
            "--recipe",
            required=True,
            metavar="NAME|FILE",
            help="int8 (TensorRT), int8-dynamic (CPU), int4 (CPU), int4-portable (TensorRT), or a .toml or .json file",
        )
        parser.add_argument(
            "--calibration",
            metavar="NAME",
            help="activation statistics of neo-edge calibrate (default: the only ones, where the recipe needs them)",
        )
        parser.add_argument(
            "--name", metavar="VARIANT", help="of the new variant (default: the recipe's name)"
        )
        parser.add_argument(
            "--source",
            metavar="VARIANT",
            help="float variant to start from (default: fp32 of the recipe's profile, else fp16)",
        )
        parser.add_argument(
            "--data",
            metavar="nano|FILE.jsonl|none",
            help="questions to measure with: scenes (default for the nano checkpoint), your own as neo-edge eval takes "
            "them, or none, which the bundle then says",
        )
        parser.add_argument("--count", type=int, metavar="N", help="scenes a family (default 400)")
        parser.add_argument(
            "--target-drop",
            type=float,
            metavar="POINTS",
            help="keep the most sensitive layers in higher precision until no family loses as much (default: the "
            "recipe's target, and no layer is kept)",
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="write the variant although it lost its target or more in a family",
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="replace a quantized variant of that name"
        )
        parser.add_argument(
            "--processes", type=int, default=1, metavar="N", help="that share the questions (default 1)"
        )
        parser.add_argument(
            "--threads", type=int, metavar="N", help="of each process (default: physical cores)"
        )
        parser.add_argument("--html", type=Path, metavar="FILE", help="write the quality report, one file")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Quantizes, and prints what was lost."""
        for package, extra in _PACKAGES.items():
            require(package, extra=extra)
        from neo_edge.bundle import open_bundle
        from neo_edge_export.quantization.quantize import QuantizeOptions, quantize
        from neo_edge_export.quantization.recipes import find_recipe

        if args.target_drop is not None and not 0 < args.target_drop <= 100:
            raise QuantizationError(
                f"--target-drop is {args.target_drop:g}; it is in points of accuracy, above 0 and at most 100"
            )
        if args.html is not None and not args.html.parent.is_dir():  # found now, not after the measurement
            raise QuantizationError(
                f"{args.html} cannot be written: there is no folder {args.html.parent}; make it first"
            )
        recipe, bundle = find_recipe(args.recipe), open_bundle(args.bundle)
        made = quantize(
            bundle,
            recipe,
            _data(args, bundle),
            QuantizeOptions(
                name=args.name,
                source=args.source,
                calibration=args.calibration,
                target_drop=args.target_drop,
                force=args.force,
                overwrite=args.overwrite,
            ),
            threads=args.threads,
            processes=args.processes,
        )
        if args.html is not None and made.report is not None:
            made.report.write_html(args.html)
        _print(made, args)
        return 0


quantize_command = QuantizeCommand()


def _data(args: argparse.Namespace, bundle: Bundle) -> QualityData | None:
    from neo_edge_calibration.quality import file_data, scene_data
    from neo_edge_calibration.quality.data import DEFAULT_COUNT

    chosen = args.data
    if chosen is None:
        if bundle.manifest.provenance.get("checkpoint") != _NANO:
            raise QuantizationError(
                "--data says what to measure the variant with: FILE.jsonl of your own questions, or none, and then the "
                "bundle says that it was not measured"
            )
        chosen = _SCENES
    if args.count is not None and chosen != _SCENES:
        raise QuantizationError(f"--count chooses scenes, and --data is {chosen!r}: leave one of them out")
    if chosen == _NONE:
        if args.target_drop is not None:
            raise QuantizationError("--target-drop is measured, and --data is none: give questions")
        return None
    return scene_data(args.count or DEFAULT_COUNT) if chosen == _SCENES else file_data(Path(chosen))


def _print(made: Quantized, args: argparse.Namespace) -> None:
    if args.json:
        print(
            json.dumps(
                {
                    "bundle": str(args.bundle),
                    "variant": made.name,
                    "kept": list(made.kept),
                    "layer_precision": dict(made.variant.layer_precision),
                    "quality": dict(made.variant.quality),
                }
            )
        )
        return
    if made.report is not None:
        print(made.report.summary())
    for product in made.kept:
        print(f"kept in higher precision: {product}")
    if made.variant.quality.get("below_target"):
        print("below its target, and written because --force was given; the bundle says so")
    elif made.report is not None and not made.report.met:
        asking = f"neo-edge quality {args.bundle} --variant {made.name} --keep"
        asking += (
            f" --count {count}"
            if (count := made.report.wanted_count) and args.data in (None, _SCENES)
            else ""
        )
        print(f"not shown to meet its target by so few questions; the bundle says so. To ask more: {asking}")
    print(f"wrote the variant {made.name} into {args.bundle}")
