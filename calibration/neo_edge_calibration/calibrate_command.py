"""`neo-edge calibrate`: arguments and printing."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from neo_edge_runtime.commands.model_arguments import (
    add_bundle_argument,
    add_protocol_argument,
    add_threads_argument,
)

if TYPE_CHECKING:
    from neo_edge_calibration.calibrating import CalibrationResult

_MOST_NAMED = 5
_EPILOG = """\
SOURCE is a folder of pictures or of videos, or `nano` for generated scenes, or
a .jsonl file of conversations in NEO's training format:
  {"image": "a.jpg", "conversations": [{"from": "human", "value": "What?"},
                                       {"from": "gpt", "value": "A cup."}]}
Pictures that cannot be read are skipped and named.

examples:
  neo-edge calibrate robot.bundle --data conversations.jsonl
  neo-edge calibrate robot.bundle --data pictures/ --samples 256 --name shelf

A run that was killed is taken up where it was by the same command.
"""


class CalibrateCommand:
    """Gathers activation statistics into a bundle."""

    summary = "run a float variant on your prompts and keep what its activations are like, for quantize"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        parser.add_argument(
            "--data", required=True, metavar="SOURCE", help="a folder, a .jsonl file, or nano"
        )
        parser.add_argument(
            "--samples", type=int, default=128, metavar="N", help="prompts to run, 8 or more (default 128)"
        )
        parser.add_argument(
            "--method",
            choices=("max", "percentile", "mse"),
            default="max",
            help="where ranges clip, unless a recipe says otherwise (default max: nowhere)",
        )
        parser.add_argument(
            "--name", default="default", metavar="NAME", help="of the statistics (default default)"
        )
        parser.add_argument(
            "--variant", metavar="V", help="a float one; default: fp32 if there is one, else fp16"
        )
        add_protocol_argument(parser)
        add_threads_argument(parser)
        parser.add_argument(
            "--seed", type=int, default=0, metavar="N", help="which prompts and rows are taken (default 0)"
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="replace statistics of that name from other data"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = _EPILOG

    def run(self, args: argparse.Namespace) -> int:
        """Prints what was written."""
        from neo_edge_calibration.calibrating import calibrate
        from neo_edge_calibration.sources.named import named_source

        result = calibrate(
            args.bundle,
            named_source(args.data, args.seed),
            name=args.name,
            samples=args.samples,
            method=args.method,
            variant=args.variant,
            protocol=args.protocol,
            threads=args.threads,
            seed=args.seed,
            overwrite=args.overwrite,
        )
        for warning in result.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if result.skipped:
            print(f"skipped {_named(result)}", file=sys.stderr)
        if args.json:
            print(json.dumps(_to_dict(result), indent=2))
        else:
            print(_line(result))
        return 0


calibrate_command = CalibrateCommand()


def _named(result: CalibrationResult) -> str:
    lines = [f"  {reason}" for reason in result.skipped[:_MOST_NAMED]]
    more = len(result.skipped) - len(lines)
    return "\n".join([f"{len(result.skipped)} samples", *lines, *([f"  and {more} more"] if more else [])])


def _line(result: CalibrationResult) -> str:
    found = result.statistics
    groups = f"{len(found.groups)} groups, {found.method}"
    what = f"{found.samples} samples of {found.source} through {found.variant}, {groups}"
    if result.reused:
        return f"calibration {result.name!r} is already there: {what}"
    return f"wrote calibration {result.name!r} into {result.bundle.root}: {what}"


def _to_dict(result: CalibrationResult) -> dict[str, object]:
    found = result.statistics
    return {
        "name": result.name,
        "file": result.bundle.manifest.calibrations[result.name].file,
        "reused": result.reused,
        "variant": found.variant,
        "method": found.method,
        "samples": found.samples,
        "source": found.source,
        "skipped": list(result.skipped),
        "warnings": list(result.warnings),
        "data_digest": found.data_digest,
        "checkpoint_digest": found.checkpoint_digest,
        "graph_digest": found.graph_digest,
        "ranges": {name: group.range() for name, group in found.groups.items()},
    }
