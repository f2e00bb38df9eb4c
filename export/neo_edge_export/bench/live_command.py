"""`neo-edge bench --live`: its arguments, and what they lead to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge.extras import require

if TYPE_CHECKING:
    from neo_edge_runtime.bench.live_report import LiveReport
    from neo_edge_runtime.bench.live_speed import LivePlan

_ONLY_LIVE = ("frames", "policy", "max_pixels", "plot")


def add_live_arguments(parser: argparse.ArgumentParser, numbers: Callable[[str], tuple[int, ...]]) -> None:
    """Declares them; `numbers` reads a list of numbers."""
    live = parser.add_argument_group("watching", "frames of --image-size, instead of prompts at depths")
    live.add_argument(
        "--live", action="store_true", help="time frames that enter a live session, and a question to it"
    )
    live.add_argument(
        "--frames",
        type=numbers,
        metavar="N,N",
        help="where a frame's cost is told (default 10,64,100,500)",
    )
    live.add_argument("--policy", choices=("drop", "recompute"), help="of a full window (default drop)")
    live.add_argument(
        "--max-pixels", type=int, metavar="N", help="larger frames are scaled down to this area"
    )
    live.add_argument("--plot", type=Path, metavar="FILE", help="draw every frame's cost as SVG, too")


def check_live_arguments(args: argparse.Namespace) -> None:
    """Finds arguments that do not go together.

    Raises:
        InputError: some do not.
    """
    if args.live and args.vs is not None:
        raise InputError("--live and --vs do not go together: give one of them")
    if not args.live and (given := [name for name in _ONLY_LIVE if getattr(args, name) is not None]):
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{option} is for watching: give --live, too, or leave it out")
    if args.plot is not None and not args.plot.absolute().parent.is_dir():
        raise InputError(f"{args.plot.parent} is no folder: give --plot a file in one that is there")


def run_live(args: argparse.Namespace) -> int:
    """Measures, prints and draws."""
    from neo_edge_runtime.bench.live_speed import LivePlan

    given = {"frames": args.frames, "policy": args.policy}
    plan = LivePlan(
        repetitions=args.repetitions,
        image_size=args.image_size,
        **{name: value for name, value in given.items() if value is not None},
    )
    report = measure_bundle(args, plan)
    if args.plot is not None:
        write_plot(report, args.plot)
    print(
        json.dumps(report.to_json(), indent=2, ensure_ascii=False) if args.json else "\n".join(report.lines())
    )
    return 0


def measure_bundle(args: argparse.Namespace, plan: LivePlan) -> LiveReport:
    """Loads the bundle and watches."""
    from neo_edge.bundle import open_bundle
    from neo_edge.tokenizer import load_tokenizer
    from neo_edge_runtime.backend_choice import open_backend
    from neo_edge_runtime.bench.device import device_lines
    from neo_edge_runtime.bench.live_report import LiveReport
    from neo_edge_runtime.bench.live_speed import measure_live
    from neo_edge_runtime.model import Model

    if args.backend.startswith("onnxruntime"):
        require("onnxruntime", extra="cpu")
    bundle = open_bundle(args.bundle)
    tokenizer = load_tokenizer(bundle.root) if bundle.manifest.tokenizer else None
    opened = open_backend(
        bundle, args.backend, variant=args.variant, threads=args.threads, prepacked=args.prepacked
    )
    device = device_lines(opened.threads)
    with Model(
        opened.backend,
        tokens=bundle.manifest.special_tokens,
        tokenizer=tokenizer,
        max_pixels=args.max_pixels,
    ) as model:
        figures = measure_live(model, plan)
    return LiveReport(
        bundle=str(args.bundle),
        variant=opened.variant,
        backend=opened.name,
        device=device,
        date=date.today().isoformat(),
        figures=figures,
    )


def write_plot(report: LiveReport, path: Path) -> None:
    """Writes the drawing.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_text(report.plot(), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}): give a file in a folder that is there and yours"
        ) from error
