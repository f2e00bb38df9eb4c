"""Whether quantized variants of the nano checkpoint answer through neo_edge's own kernels as through ONNX Runtime.

Both compute the same graph from the same weights, and sum in another order; that moves an activation to the next of its
255 numbers now and then. Exports, calibrates and quantizes, then asks the same unseen scenes of float32, and of each
variant both ways: who answers rightly, with the paired 95 % interval of the difference, and how far the probabilities
of the next token are from float32's and from each other's. Needs a C++ compiler and AVX-512 VNNI.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from command_line import neo_edge

from neo_edge.bundle import Bundle, open_bundle
from neo_edge_calibration.quality import scene_data
from neo_edge_calibration.quality.asking import Interviewer
from neo_edge_calibration.quality.comparison import Compared, Comparison
from neo_edge_calibration.quality.report import FamilyQuality
from neo_edge_calibration.question import Questions
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked_build import PrepackedMode, fill_cache

CHECKPOINT = "neo-ov-nano"
REFERENCE = "fp32"
VARIANTS = ("int8-dynamic", "int4")
MODES: tuple[PrepackedMode, PrepackedMode] = ("off", "auto")  # ONNX Runtime, kernels of our own
BLOCK = 16  # questions that are asked together
MOST_LOST, MOST_KL = 0.25, 1.1  # points over all families; KL from float32, over what ONNX Runtime has

# A question's comparisons: all with float32, then each variant's kernels with ONNX Runtime.
Compare = tuple[Comparison, ...]


def main() -> int:
    """Prints a table a variant; 1 when one of them misses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="scenes a family (default 400)")
    parser.add_argument("--processes", type=int, default=2, help="of one thread (default 2)")
    parser.add_argument(
        "--bundle",
        type=Path,
        help="one with these variants, as quantized_accuracy.py leaves it (default: makes one)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/evidence/kernel-accuracy"), help="40 MB of files"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["NEO_EDGE_CACHE_DIR"] = str((args.out / "cache").absolute())
    bundle = open_bundle(args.bundle or _make_bundle(args.out))
    for variant in VARIANTS:
        filled = fill_cache(bundle, variant)
        backend = OrtBackend(bundle, variant, threads=1)
        kernels = backend.kernels
        backend.close()
        if kernels == "ONNX Runtime":
            print(f"{variant} gets no kernels of neo_edge's own: {filled.without_kernels}: MISSED")
            return 1
        print(f"{variant}: neo_edge's own kernels, {kernels}")
    data, began_s = scene_data(args.count), time.monotonic()
    answers = list(_ask(bundle, data.questions, args.processes))
    print(
        f"{CHECKPOINT}, {data.source}: asked in {(time.monotonic() - began_s) / 60:.1f} minutes by {args.processes} "
        "processes of one thread"
    )
    passed = [_judge(number, answers) for number in range(len(VARIANTS))]
    return 0 if all(passed) else 1


def _make_bundle(out: Path) -> Path:
    bundle = out / "nano.bundle"
    neo_edge("export", CHECKPOINT, "-o", bundle, "--precision", "fp32", "--overwrite")
    neo_edge("calibrate", bundle, "--data", "nano")
    for variant in VARIANTS:
        neo_edge("quantize", bundle, "--recipe", variant, "--data", "none")
    return bundle


def _ask(bundle: Bundle, questions: Questions, processes: int) -> Iterator[Compare]:
    blocks = [questions.part(start, start + BLOCK) for start in range(0, len(questions), BLOCK)]
    with ProcessPoolExecutor(processes, get_context("spawn"), _load, (bundle,)) as pool:
        for done, found in enumerate(pool.map(_ask_block, blocks), 1):
            if done % 20 == 0:
                print(f"{done} of {len(blocks)} blocks", file=sys.stderr, flush=True)
            yield from found


_interviewers: list[Interviewer] = []  # of an asking process


def _load(bundle: Bundle) -> None:
    asked = partial(Interviewer, bundle, threads=1)
    both = list(chain.from_iterable((variant, variant) for variant in VARIANTS))
    _interviewers.append(asked([REFERENCE, *both], prepacked=["off", *MODES * len(VARIANTS)]))
    _interviewers.extend(asked([variant] * 2, prepacked=MODES) for variant in VARIANTS)


def _ask_block(questions: Questions) -> list[Compare]:
    block = list(questions)
    return list(zip(*(interviewer.ask(block) for interviewer in _interviewers), strict=True))


def _judge(number: int, answers: Sequence[Compare]) -> bool:
    """Prints what came of a variant; whether its kernels are as good as ONNX Runtime's."""
    plain, ours = (
        [with_float[0].variants[2 * number + way] for with_float in answers] for way in range(len(MODES))
    )
    pairs = [compare[1 + number] for compare in answers]
    groups: dict[str, list[Comparison]] = {}
    for pair in pairs:
        groups.setdefault(pair.family, []).append(pair)
    print(f"\n{VARIANTS[number]}: rightly answered in ONNX Runtime, and through the kernels")
    print(
        f"  {'family':12} {'before':>8} {'now':>8} {'lost':>5} {'gained':>6} {'drop':>6}  95 % interval, points"
    )
    for name, group in groups.items():
        _print_family(_quality(name, group))
    whole = _quality("all", pairs)
    _print_family(whole)
    before, now = (float(np.mean(_kl(those))) for those in (plain, ours))
    between = [pair.variants[0] for pair in pairs]
    kl = _kl(between)
    for what, values in (
        ("of ONNX Runtime from fp32", _kl(plain)),
        ("of the kernels from fp32", _kl(ours)),
        ("of the kernels from ONNX Runtime", kl),
    ):
        print(
            f"  KL {what:34} mean {values.mean():.2e}, 99th percentile {np.quantile(values, 0.99):.2e} nats a token"
        )
    print(f"  same likeliest token of both {sum(one.agreed for one in between) / len(kl):.3%}")
    return all(
        [
            _verdict("points lost over all families, upper end", 100 * whole.interval[1], MOST_LOST),
            _verdict("KL from fp32, kernels over ONNX Runtime", now / before, MOST_KL),
        ]
    )


def _quality(name: str, pairs: Sequence[Comparison]) -> FamilyQuality:
    right = [(pair.reference.right, pair.variants[0].right) for pair in pairs]
    return FamilyQuality.counted(name, right)


def _kl(compared: Sequence[Compared]) -> npt.NDArray[np.float64]:
    return np.concatenate([one.kl for one in compared])


def _print_family(family: FamilyQuality) -> None:
    low, high = (100 * end for end in family.interval)
    print(
        f"  {family.name:12} {family.reference_accuracy:8.2%} {family.accuracy:8.2%} {family.lost:5d} "
        f"{family.gained:6d} {100 * family.drop:6.2f}  {low:.2f} to {high:.2f}"
    )


def _verdict(of: str, found: float, most: float) -> bool:
    passed = found <= most
    print(f"  {of}: {found:.3f}, wanted at most {most}{'' if passed else ': MISSED'}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
