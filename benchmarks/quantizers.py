"""The nano checkpoint quantized by neo_edge, by NVIDIA Model Optimizer and by ONNX Runtime's quantizers: one table.

Installs nvidia-modelopt 0.47 with torch, onnx 1.21 and onnxruntime 1.24 into an environment of its own in neo_edge's
cache folder, once (1.4 GB with a CPU build of torch, for which PIP_EXTRA_INDEX_URL must name an index that has one).
Needs an installation of neo_edge with its `dev` extra; ONNX Runtime's quantizers come with it.

The same float graphs, the same calibration prompts, and the same evaluation: every graph is put into the bundle as a
variant, runs in neo_edge's runtime, and is measured by `measure_variants`, as `neo-edge quantize` measures ours.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from calibration_feeds import write_feeds
from modelopt_peers import ENVIRONMENT, MODELOPT_PEERS
from ort_peers import ORT_PEERS, PARTS, Job, Peer
from quantizer_table import Row, lines, verdicts
from speed_harness import neo_edge

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.errors import NeoEdgeError
from neo_edge.manifest import Manifest
from neo_edge_calibration.quality import QualityReport, scene_data
from neo_edge_calibration.quality.measuring import measure_variants
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.prompts import text_prompt
from neo_edge_runtime.bench.timing import Contender, Seconds, interleave
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.session import Session

CHECKPOINT = "neo-ov-nano"
OURS = {
    "int8": "int8",
    "int8-dynamic": "int8",
    "int4": "int4",
    "int4-portable": "int4",
}  # precision by recipe
PEERS = (*ORT_PEERS, *MODELOPT_PEERS)
REFERENCE = "fp32"
PAST, PREFILL = 300, 320  # tokens
TOKEN = 7


@dataclass(frozen=True)
class Made:
    """What making a variant gave."""

    seconds: float
    refused: str | None = None  # why there is none, or why it does not run


def main() -> int:
    """Prints the table; 1 when ours is less accurate than a peer at equal bits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20, help="scenes of each of 15 families (default 20)")
    parser.add_argument("--samples", type=int, default=64, help="calibration prompts (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PEER",
        choices=[peer.variant for peer in PEERS],
        help="such as ort-static",
    )
    parser.add_argument("--prepare", action="store_true", help="only make the peer's environment")
    args = parser.parse_args()
    peers = [peer for peer in PEERS if not args.only or peer.variant in args.only]
    if args.prepare or not set(MODELOPT_PEERS).isdisjoint(peers):
        ENVIRONMENT.make()
    if args.prepare:
        return 0
    logging.getLogger().setLevel(logging.ERROR)  # the peers log at length
    describe_device(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        return _compare(Path(folder), peers, args)


def _compare(folder: Path, peers: Sequence[Peer], args: argparse.Namespace) -> int:
    root = folder / "nano.bundle"
    neo_edge("export", CHECKPOINT, "-o", root, "--precision", "fp32", "--ops", "modern", "--ops", "portable")
    started = time.perf_counter()
    neo_edge("calibrate", root, "--data", "nano", "--samples", args.samples, "--threads", args.threads)
    calibrating = time.perf_counter() - started
    made = {name: _ours(root, name, calibrating) for name in OURS}
    bundle = open_bundle(root)
    for source in ("fp32", "fp32-portable"):
        write_feeds(bundle, source, args.samples, folder / f"feeds-{source}")
    for peer in peers:
        made[peer.variant] = _peer(peer, bundle, folder)
        print(f"{peer.variant}: {made[peer.variant]}", file=sys.stderr)
    bundle = open_bundle(root)
    names = [name for name in made if made[name].refused is None]
    reports = measure_variants(
        bundle,
        names,
        REFERENCE,
        scene_data(args.count),
        threads=max(1, args.threads // 2),
        processes=2,
    )
    decode, prefill = _speed(bundle, [REFERENCE, *names], args.threads, args.rounds)
    shown = {peer.variant: peer for peer in peers}
    rows = [
        _row(name, shown.get(name), made[name], reports.get(name), decode, prefill)
        for name in _ordered(made, shown)
    ]
    any_report = reports[names[0]]
    step, prompt = (1e3 * float(np.median(times[REFERENCE])) for times in (decode, prefill))
    print(
        f"\n{CHECKPOINT}, {any_report.data}; {args.samples} calibration prompts; "
        f"float32 answers {any_report.whole.reference_accuracy:.1%}, decodes behind {PAST} tokens in "
        f"{step:.2f} ms, prefills {PREFILL} in {prompt:.1f} ms; {args.threads} threads\n"
    )
    print("\n".join(lines(rows)))
    found, behind = verdicts(rows)
    print("\n" + "\n".join(found))
    return 1 if behind else 0


def _ordered(made: Mapping[str, Made], peers: Mapping[str, Peer]) -> list[str]:
    """Each of ours with those behind it that it is compared with."""
    return [
        name for ours in OURS for name in made if name == ours or (name in peers and peers[name].kind == ours)
    ]


def _ours(root: Path, recipe: str, calibrating: float) -> Made:
    started = time.perf_counter()
    neo_edge("quantize", root, "--recipe", recipe, "--data", "none", "--force")
    return Made(calibrating + time.perf_counter() - started)


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
    started = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            peer.make(job)
    except Exception as error:  # whatever a peer raises is a row of the table
        logging.exception("%s", peer.variant)
        return Made(time.perf_counter() - started, f"cannot make it: {_first_line(error)}")
    seconds = time.perf_counter() - started
    name = peer.variant
    precision = OURS[peer.kind]

    def change(manifest: Manifest) -> Manifest:
        variant = replace(
            source,
            precision=precision,
            opset=_opset(job.targets["decoder"]),
            vision=f"{name}/vision.onnx",
            decoder=f"{name}/decoder.onnx",
            quality={"unmeasured": True},
        )
        return replace(manifest, variants={**manifest.variants, name: variant})

    with BundleUpdate(bundle) as update:
        shutil.copytree(work, update.directory / name)
        try:
            preview = update.preview(change)
            _try(preview, name)
        except NeoEdgeError as error:
            return Made(seconds, f"does not run: {_first_line(error)}")
        update.commit(change)
    return Made(seconds)


def _try(bundle: Bundle, name: str) -> None:
    """Raises `NeoEdgeError` where it does not run, or gives NaN: that would end everybody's measurement."""
    backend = OrtBackend(bundle, name, threads=1)
    try:
        _behind(bundle, backend, PAST).close()
    finally:
        backend.close()
    measure_variants(bundle, [name], REFERENCE, scene_data(1), threads=1)


def _behind(bundle: Bundle, backend: OrtBackend, tokens: int) -> Session:
    special = bundle.manifest.special_tokens
    assert special is not None
    session = Session(backend)
    text_prompt(bundle.manifest.model, special, tokens).append_to(session)
    session.decode(TOKEN)
    return session


def _speed(
    bundle: Bundle, names: Sequence[str], threads: int, rounds: int
) -> tuple[Mapping[str, Seconds], Mapping[str, Seconds]]:
    special = bundle.manifest.special_tokens
    assert special is not None
    prompt = text_prompt(bundle.manifest.model, special, PREFILL)
    with ExitStack() as opened:
        steps, prefills = {}, {}
        for name in names:
            backend = OrtBackend(bundle, name, threads=threads)
            opened.callback(backend.close)
            session = opened.enter_context(_behind(bundle, backend, 2 * PAST))
            start = session.checkpoint_at(PAST)
            steps[name] = Contender(partial(session.decode, TOKEN), 15, partial(session.rewind, start))
            empty = opened.enter_context(_behind(bundle, backend, PREFILL))
            nothing = empty.checkpoint_at(0)
            prefills[name] = Contender(partial(prompt.append_to, empty), 5, partial(empty.rewind, nothing))
        return (
            interleave(steps, rounds=rounds, rest_s=0.1),
            interleave(prefills, rounds=rounds, rest_s=0.1),
        )


def _row(
    name: str,
    peer: Peer | None,
    made: Made,
    report: QualityReport | None,
    decode: Mapping[str, Seconds],
    prefill: Mapping[str, Seconds],
) -> Row:
    shown, kind = (f"**neo_edge {name}**", name) if peer is None else (peer.shown, peer.kind)
    if report is None:
        return Row(shown, kind, ours=peer is None, making_s=made.seconds, refused=made.refused)
    size = report.size
    return Row(
        shown,
        kind,
        ours=peer is None,
        making_s=made.seconds,
        drop=report.whole.drop,
        interval=report.whole.interval,
        kl_mean=report.tokens.kl_mean,
        kl_p99=report.tokens.kl_p99,
        graph_bytes=size.total - size.token_table,
        decode_s=float(np.median(decode[name])),
        prefill_s=float(np.median(prefill[name])),
    )


def _opset(graph: Path) -> int:
    model = onnx.load(graph, load_external_data=False)
    return int(max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


if __name__ == "__main__":
    sys.exit(main())
