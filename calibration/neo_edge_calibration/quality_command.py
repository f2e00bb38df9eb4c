"""`neo-edge quality`: arguments and printing; heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge_runtime.commands.model_arguments import add_bundle_argument

if TYPE_CHECKING:
    from neo_edge.manifest import Manifest
    from neo_edge_calibration.quality.data import QualityData

_SCENES = "nano"


class QualityCommand:
    """Measures variants beside the one that they were made from."""

    summary = "measure what a variant lost: accuracy, token probabilities, bytes; as table, JSON or HTML"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        parser.epilog = "The exit status is 0 where every variant is shown to meet its target, else 1."
        add_bundle_argument(parser)
        parser.add_argument(
            "--variant", metavar="V", action="append", required=True, help="what is measured; may be repeated"
        )
        parser.add_argument(
            "--reference",
            metavar="R",
            help="what it is measured against (default: the bundle's float32 variant)",
        )
        parser.add_argument(
            "--data",
            metavar="nano|FILE.jsonl",
            default=_SCENES,
            help="scenes for the nano checkpoint (default), or your own questions as neo-edge eval takes them",
        )
        parser.add_argument(
            "--count",
            type=int,
            metavar="N",
            help="scenes a family (default 400; no fewer than 381 can show one point, 2000 show more)",
        )
        parser.add_argument(
            "--seed", type=int, default=0, metavar="N", help="draws other scenes; calibration saw none of any"
        )
        parser.add_argument(
            "--family", action="append", metavar="NAME", help="only this one of the scenes; may be repeated"
        )
        parser.add_argument(
            "--target-drop",
            type=float,
            metavar="POINTS",
            help="most points of accuracy that may be lost (default: what the variant was made for, else 3 for four "
            "bits and 1 for others)",
        )
        parser.add_argument(
            "--keep",
            action="store_true",
            help="write what is found into the bundle, in place of what it says of the variants' quality now; without "
            "--family and --target-drop",
        )
        parser.add_argument(
            "--processes",
            type=int,
            default=1,
            metavar="N",
            help="that share the questions, each with all variants loaded; the result is the same (default 1)",
        )
        parser.add_argument(
            "--threads", type=int, metavar="N", help="of each process (default: the physical cores, shared)"
        )
        parser.add_argument(
            "--html", type=Path, metavar="FILE", help="write the report, one file that needs no other"
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Prints what was found; 1 when a variant does not meet its target."""
        from neo_edge.bundle import open_bundle
        from neo_edge_calibration.quality import measure_and_keep, measure_variants

        if args.keep and (args.target_drop is not None or args.family):
            raise InputError(
                "--keep writes what is found in all families, judged by the target that the variant was made for: "
                "leave --target-drop and --family out, or --keep"
            )
        if args.target_drop is not None and not 0 < args.target_drop <= 100:
            raise InputError(
                f"--target-drop is {args.target_drop:g}; it is in points of accuracy, above 0 and at most 100"
            )
        bundle = open_bundle(args.bundle)
        pages = _pages(args.html, args.variant)
        asked = bundle, args.variant, args.reference or _reference(bundle.manifest), _data(args)
        threads, processes = args.threads, args.processes
        if args.keep:
            reports = measure_and_keep(*asked, threads=threads, processes=processes)
        else:
            target = None if args.target_drop is None else args.target_drop / 100
            reports = measure_variants(*asked, threads=threads, processes=processes, target_drop=target)
        for name, page in pages.items():
            reports[name].write_html(page)
        if args.json:
            print(json.dumps({name: report.to_manifest() for name, report in reports.items()}))
        else:
            print("\n\n".join(report.summary() for report in reports.values()))
            counts = [count for report in reports.values() if (count := report.wanted_count) is not None]
            if counts and args.data == _SCENES:
                print(f"\n--count {max(counts)} could show what is not shown")
            if args.keep:
                print(f"\nwrote the quality of {', '.join(reports)} into {args.bundle}")
        return 0 if all(report.met for report in reports.values()) else 1


def _data(args: argparse.Namespace) -> QualityData:
    from neo_edge_calibration.quality import file_data, scene_data
    from neo_edge_calibration.quality.data import DEFAULT_COUNT
    from neo_edge_calibration.scenes import FAMILIES

    if args.data == _SCENES:
        count = DEFAULT_COUNT if args.count is None else args.count
        return scene_data(count, args.seed, tuple(args.family or FAMILIES))
    if args.count is not None or args.family:
        raise InputError(
            "--count and --family choose scenes, and --data names a file: leave them out, or the file"
        )
    return file_data(Path(args.data))


def _reference(manifest: Manifest) -> str:
    names = [name for name, variant in manifest.variants.items() if variant.precision == "fp32"]
    if not names:
        raise InputError(
            f"the bundle has no float32 variant, only {', '.join(manifest.variants)}: name one with --reference"
        )
    return names[0]


def _pages(html: Path | None, variants: list[str]) -> dict[str, Path]:
    """Where each variant's page goes: the file as named, or with the variant's name in it when there are several."""
    if html is None:
        return {}
    if not html.parent.is_dir():  # found now, and not after the measurement
        raise InputError(f"{html} cannot be written: there is no folder {html.parent}; make it first")
    if len(variants) == 1:
        return {variants[0]: html}
    return {name: html.with_stem(f"{html.stem}-{name}") for name in variants}


quality_command = QualityCommand()
