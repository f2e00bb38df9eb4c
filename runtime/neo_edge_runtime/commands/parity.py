"""`neo-edge parity`: a bundle against what upstream's code computed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge_runtime.backend_choice import BACKENDS, DEFAULT_BACKEND
from neo_edge_runtime.commands.model_arguments import add_bundle_argument, add_threads_argument

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant
    from neo_edge_runtime.parity import CaseParity


class ParityCommand:
    """Replays golden files through a bundle."""

    summary = "compare a bundle with what upstream's code computed (golden .npz files, docs/parity.md)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        parser.add_argument(
            "golden", metavar="GOLDEN.npz", nargs="+", type=Path, help="prompts with upstream's numbers"
        )
        parser.add_argument(
            "--chunked", action="store_true", help="prefill in chunks of 16 tokens or a whole image"
        )
        parser.add_argument(
            "--atol",
            type=float,
            metavar="X",
            help="largest difference allowed (default: 1e-4 fp32, 0.03 fp16)",
        )
        parser.add_argument(
            "--variant",
            action="append",
            metavar="V",
            help="default: all that the CPU can run, the first that a GPU can; repeatable",
        )
        parser.add_argument(
            "--backend",
            choices=BACKENDS,
            default=DEFAULT_BACKEND,
            metavar="B",  # the choices do not fit a line
            help=f"what runs it: {', '.join(BACKENDS)} (default: {DEFAULT_BACKEND})",
        )
        add_threads_argument(parser)
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Prints the largest differences; 1 when one is above the tolerance."""
        from neo_edge.bundle import open_bundle
        from neo_edge_runtime.ort_backend import runnable_variants

        bundle = open_bundle(args.bundle)
        on_cpu = args.backend == DEFAULT_BACKEND
        asked: list[str | None] = args.variant or ([*runnable_variants(bundle)] if on_cpu else [None])
        for name in asked:
            if name is not None:  # before anything runs
                _tolerance(bundle.variant(name), args.atol)
        found = dict(_replay_all(bundle, name, args) for name in asked)
        allowed = {name: _tolerance(bundle.variant(name), args.atol) for name in found}
        passed = {
            name: all(case.within(allowed[name]) for case in cases.values()) for name, cases in found.items()
        }
        if args.json:
            print(json.dumps(_parity_json(args, found, allowed, passed), indent=2))
        else:
            for name in found:
                print(
                    f"{name}, {'chunked' if args.chunked else 'whole'} prefill, allowed {allowed[name]:.2e}"
                )
                _print_table(found[name])
                print(f"  {'within' if passed[name] else 'ABOVE'} the tolerance")
        return 0 if all(passed.values()) else 1


parity_command = ParityCommand()


def _tolerance(variant: Variant, asked: float | None) -> float:
    from neo_edge_runtime.parity import TOLERANCE

    if asked is not None:
        if not asked >= 0:
            raise InputError(f"--atol is {asked}; it must be 0 or above")
        return asked
    if variant.precision not in TOLERANCE:
        raise InputError(f"there is no usual tolerance for the precision {variant.precision!r}: pass --atol")
    return TOLERANCE[variant.precision]


def _replay_all(
    bundle: Bundle, variant: str | None, args: argparse.Namespace
) -> tuple[str, dict[str, CaseParity]]:
    """The variant that ran, and what was found in each file."""
    from neo_edge_runtime.backend_choice import open_backend
    from neo_edge_runtime.golden import read_golden
    from neo_edge_runtime.parity import replay
    from neo_edge_runtime.prompt_assembly import text_only_tokens

    config = bundle.manifest.model
    tokens = bundle.manifest.special_tokens or text_only_tokens(config)
    cases = [read_golden(path, config) for path in args.golden]
    opened = open_backend(bundle, args.backend, variant=variant, threads=args.threads)
    try:
        return opened.variant, {
            str(path): replay(opened.backend, tokens, case, chunked=args.chunked)
            for path, case in zip(args.golden, cases, strict=True)
        }
    finally:
        opened.backend.close()


def _parity_json(
    args: argparse.Namespace,
    found: dict[str, dict[str, CaseParity]],
    allowed: dict[str, float],
    passed: dict[str, bool],
) -> dict[str, object]:
    return {
        "bundle": str(args.bundle),
        "chunked": args.chunked,
        "variants": {
            name: {
                "allowed": allowed[name],
                "passed": passed[name],
                "cases": {path: {**asdict(case), "worst": case.worst} for path, case in cases.items()},
            }
            for name, cases in found.items()
        },
    }


def _print_table(cases: dict[str, CaseParity]) -> None:
    columns = [field.name for field in fields(next(iter(cases.values())))]
    names = [Path(path).stem for path in cases]
    width = max(len(name) for name in [*names, "worst"])
    print(f"  {'':{width}}  " + "  ".join(f"{name.replace('_', ' '):>14}" for name in columns))
    rows = [[getattr(case, column) for column in columns] for case in cases.values()]
    rows.append([max(values) for values in zip(*rows, strict=True)])
    for name, row in zip([*names, "worst"], rows, strict=True):
        print(f"  {name:{width}}  " + "  ".join(_number(value) for value in row))


def _number(value: float) -> str:
    return f"{value:>14.2e}" if value else f"{'0':>14}"
