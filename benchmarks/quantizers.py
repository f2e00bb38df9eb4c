"""The nano checkpoint quantized by neo_edge, by NVIDIA Model Optimizer and by ONNX Runtime's quantizers: two tables.

Installs nvidia-modelopt 0.47 with torch, onnx 1.21 and onnxruntime 1.24 into an environment of its own in neo_edge's
cache folder, once (1.4 GB with a CPU build of torch, for which PIP_EXTRA_INDEX_URL must name an index that has one).
Needs an installation of neo_edge with its `dev` extra; ONNX Runtime's quantizers come with it.

The same float graphs, the same calibration prompts, and the same evaluation: every graph is put into the bundle as a
variant, runs in neo_edge's runtime, and is measured by `measure_variants`, as `neo-edge quantize` measures ours.
Rows are printed as soon as a recipe of ours and its peers are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from calibration_feeds import write_feeds
from modelopt_peers import ENVIRONMENT, MODELOPT_PEERS
from ort_peers import ORT_PEERS, PARTS, Job, Peer
from quantizer_speed import PAST, PREFILL, Way, behind, speeds
from quantizer_table import (
    Bits,
    Row,
    accuracy_head,
    accuracy_line,
    speed_head,
    speed_line,
    verdicts,
)
from speed_harness import neo_edge

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.errors import NeoEdgeError
from neo_edge.manifest import Manifest
from neo_edge_calibration.quality import QualityReport, ReferenceAnswers, scene_data
from neo_edge_calibration.quality.measuring import measure_variants
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.processors import usable_physical_cores

CHECKPOINT = "neo-ov-nano"
OURS = {  # by recipe
    "int8": Bits(8, 8, 8, 8),
    "int8-dynamic": Bits(8, 8, 8, 8),
    "int4": Bits(4, 8, 8, 8),
    "int4-portable": Bits(4, 8, 8, 8),
}
OWN_KERNELS = ("int8-dynamic", "int4")  # recipes that neo_edge has kernels for, beside ONNX Runtime's
PEERS = (*ORT_PEERS, *MODELOPT_PEERS)
REFERENCE = "fp32"
SAMPLES, FEW_SAMPLES = 64, 8  # calibration prompts; times do not depend on them


@dataclass(frozen=True)
class Made:
    """What making a variant gave."""

    name: str
    seconds: float
    peer: Peer | None = None  # None: ours
    refused: str | None = None  # why there is none, or why it does not run

    @property
    def shown(self) -> str:
        """In the table."""
        return self.peer.shown if self.peer else f"**neo_edge {self.name}**"


def main() -> int:
    """Prints the tables; 1 when ours is less accurate than a peer that it is compared with."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("accuracy", "speed"), help="alone (default: both)")
    parser.add_argument("--count", type=int, default=75, help="scenes of each of 15 families (default 75)")
    parser.add_argument(
        "--samples",
        type=int,
        help=f"calibration prompts (default {SAMPLES}, for speed alone {FEW_SAMPLES})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="PEER",
        choices=[peer.variant for peer in PEERS],
        default=[peer.variant for peer in PEERS],
        help="such as ort-static (default: all)",
    )
    parser.add_argument("--prepare", action="store_true", help="only make the peer's environment")
    args = parser.parse_args()
    args.samples = args.samples or (FEW_SAMPLES if args.part == "speed" else SAMPLES)
    peers = [peer for peer in PEERS if peer.variant in args.peers]
    if args.prepare or not set(MODELOPT_PEERS).isdisjoint(peers):
        ENVIRONMENT.make()
    if args.prepare:
        return 0
    logging.getLogger().setLevel(logging.ERROR)  # the peers log at length
    describe_device(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEO_EDGE_CACHE_DIR"] = folder  # the peers' environment is made by now
        return _compare(Path(folder), peers, args)


def _compare(folder: Path, peers: Sequence[Peer], args: argparse.Namespace) -> int:
    root = folder / "nano.bundle"
    say = _Clock()
    neo_edge("export", CHECKPOINT, "-o", root, "--precision", "fp32", "--ops", "modern", "--ops", "portable")
    started = time.perf_counter()
    neo_edge("calibrate", root, "--data", "nano", "--samples", args.samples, "--threads", args.threads)
    calibrating = time.perf_counter() - started
    for source in ("fp32", "fp32-portable"):
        write_feeds(open_bundle(root), source, args.samples, folder / f"feeds-{source}")
    say("exported, calibrated")
    made: list[Made] = []
    rows: list[Row] = []
    answers = ReferenceAnswers()
    for recipe in OURS:
        group = [_ours(root, recipe, calibrating)]
        group += [_peer(peer, open_bundle(root), folder) for peer in peers if peer.kind == recipe]
        made += group
        say(f"made {', '.join(one.name for one in group)}")
        if args.part != "speed":
            rows += _measured(open_bundle(root), recipe, group, answers, args, first=not rows)
            say(f"measured {recipe} and its peers")
    if args.part != "accuracy":
        print()
        _print_speed(open_bundle(root), made, args)
        say("timed")
    found, is_behind = verdicts(rows)
    if found:
        print("\n" + "\n".join(found))
    return 1 if is_behind else 0


class _Clock:
    """Says on standard error what is done, and how long it took."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def __call__(self, done: str) -> None:
        now = time.perf_counter()
        print(f"{done}: {now - self._last:.0f} s", file=sys.stderr, flush=True)
        self._last = now


def _measured(
    bundle: Bundle,
    recipe: str,
    group: Sequence[Made],
    answers: ReferenceAnswers,
    args: argparse.Namespace,
    *,
    first: bool,
) -> list[Row]:
    """Measures a recipe of ours and its peers on the same questions, and prints their rows."""
    processes = min(2, args.threads)
    reports = measure_variants(
        bundle,
        [one.name for one in group if one.refused is None],
        REFERENCE,
        scene_data(args.count),
        threads=max(1, args.threads // processes),
        processes=processes,
        reference_answers=answers,
    )
    if first:
        any_report = next(iter(reports.values()))
        print(
            f"\n{CHECKPOINT}, {any_report.data}, {any_report.tokens.count} tokens; {args.samples} calibration "
            f"prompts; float32 answers {any_report.whole.reference_accuracy:.2%}; bits of decoder/head/vision/token "
            "table\n"
        )
        print("\n".join(accuracy_head()))
    rows = [_row(one, recipe, reports.get(one.name)) for one in group]
    for row in rows:
        print(accuracy_line(row), flush=True)
    return rows


def _row(made: Made, recipe: str, report: QualityReport | None) -> Row:
    row = Row(
        made.shown,
        recipe,
        made.peer.bits if made.peer else OURS[recipe],
        ours=made.peer is None,
        making_s=made.seconds,
        refused=made.refused,
    )
    if report is None:
        return row
    return replace(
        row,
        accuracy=report.whole.accuracy,
        drop=report.whole.drop,
        interval=report.whole.interval,
        same_token=report.tokens.top1_agreement,
        kl_mean=report.tokens.kl_mean,
        kl_p99=report.tokens.kl_p99,
        graph_bytes=report.size.total - report.size.token_table,
    )


def _print_speed(bundle: Bundle, made: Sequence[Made], args: argparse.Namespace) -> None:
    shown = {Way(REFERENCE): "float32"}
    for one in made:
        if one.refused is None:
            shown[Way(one.name)] = one.shown
        if one.name in OWN_KERNELS:
            shown[Way(one.name, "build")] = f"{one.shown}, kernels of its own"
    found = speeds(bundle, list(shown), args.threads, args.rounds)
    print(
        f"{CHECKPOINT}, {args.threads} threads; a step behind {PAST} tokens, a prompt of {PREFILL} tokens: median of "
        f"{args.rounds} rounds\n"
    )
    print(
        "\n".join([*speed_head(), *(speed_line(name, *found[way]) for way, name in shown.items())]),
        flush=True,
    )


def _ours(root: Path, recipe: str, calibrating: float) -> Made:
    started = time.perf_counter()
    neo_edge("quantize", root, "--recipe", recipe, "--data", "none", "--force")
    return Made(recipe, calibrating + time.perf_counter() - started)


def _peer(peer: Peer, bundle: Bundle, folder: Path) -> Made:
    """Lets a peer make its graphs and puts them into the bundle, unless they do not run."""
    source = bundle.variant(peer.source)
    work = folder / peer.variant
    work.mkdir()
    # Copies: Model Optimizer writes beside the graphs that it is given, and into them.
    given = shutil.copytree(bundle.path(source.decoder).parent, folder / f"{peer.variant}-source")
    job = Job(
        {part: given / f"{part}.onnx" for part in PARTS},
        folder / f"feeds-{peer.source}",
        {part: work / f"{part}.onnx" for part in PARTS},
    )
    made = Made(peer.variant, 0, peer)
    started = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            peer.make(job)
    except Exception as error:  # whatever a peer raises is a row of the table
        logging.exception("%s", peer.variant)
        return replace(
            made, seconds=time.perf_counter() - started, refused=f"cannot make it: {_first_line(error)}"
        )
    made = replace(made, seconds=time.perf_counter() - started)
    change = _with_variant(peer, job)
    with BundleUpdate(bundle) as update:
        shutil.copytree(work, update.directory / peer.variant)
        try:
            _try(update.preview(change), peer.variant)
        except NeoEdgeError as error:
            return replace(made, refused=f"does not run: {_first_line(error)}")
        update.commit(change)
    return made


def _with_variant(peer: Peer, job: Job) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        variant = replace(
            manifest.variants[peer.source],
            precision="int4" if peer.bits.body == 4 else "int8",
            opset=_opset(job.targets["decoder"]),
            vision=f"{peer.variant}/vision.onnx",
            decoder=f"{peer.variant}/decoder.onnx",
            quality={"unmeasured": True},
        )
        return replace(manifest, variants={**manifest.variants, peer.variant: variant})

    return change


def _try(bundle: Bundle, name: str) -> None:
    """Raises `NeoEdgeError` where it does not run, or gives NaN: that would end everybody's measurement."""
    backend = OrtBackend(bundle, name, threads=1)
    try:
        behind(bundle, backend, PAST).close()
    finally:
        backend.close()
    measure_variants(bundle, [name], REFERENCE, scene_data(1), threads=1)


def _opset(graph: Path) -> int:
    model = onnx.load(graph, load_external_data=False)
    return int(max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


if __name__ == "__main__":
    sys.exit(main())
