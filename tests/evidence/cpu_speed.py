"""CPU speed at NEO-ov 2B's widths with four layers, in float32: decoding and prefill, and PyTorch beside them.

All is timed through the runtime's `Session`, on a bundle that `neo-edge export` wrote, with its weights mapped from a
prepacked cache of its own; the same bundle loaded plainly stands beside it. Contenders take turns within every round; a
ratio is taken within a round, and the median of the rounds' ratios is what counts.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from bare_matmuls import BareMatMuls
from speed_bundle import SpeedBundle, make_speed_bundle

from neo_edge_export.bench.more_readers import WiderReadBuffer
from neo_edge_export.bench.torch_speed import Step, fastest_variant, paper_variant
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.prompts import Prompt
from neo_edge_runtime.bench.timing import Contender, Seconds, interleave, spread
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.session import Session

CONTEXT = 512  # tokens in the cache when decoding
PREFILLS = (320, 1024)
DECODE_SHARE, PREFILL_SHARE = 0.85, 0.8  # what must be reached


def main() -> int:
    """Prints the figures; 1 when a share is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--preset", choices=("2b", "tiny"), default="2b", help="tiny: a quick try")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 12 GB of files lie meanwhile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    describe_device(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="cpu-speed-", dir=args.out))
    os.environ["NEO_EDGE_CACHE_DIR"] = str(folder / "cache")
    try:
        passed = _measure(make_speed_bundle(folder, args.preset), folder, args.threads, args.rounds)
    finally:
        shutil.rmtree(folder)
    return 0 if all(passed) else 1


def _measure(made: SpeedBundle, folder: Path, threads: int, rounds: int) -> list[bool]:
    ours = OrtBackend(made.bundle, "fp32", threads=threads, prepacked="build")
    plain = OrtBackend(made.bundle, "fp32", threads=threads, prepacked="off")
    os.sync()  # writing the cache's files out would take its share of the memory's bandwidth
    passed = [_decode(made, ours, plain, WiderReadBuffer(threads, folder=folder), rounds)]
    gc.collect()
    bare = BareMatMuls(made.decoder, threads, folder)
    return [*passed, *(_prefill(made, ours, plain, bare, tokens, rounds) for tokens in PREFILLS)]


def _decode(
    made: SpeedBundle, backend: OrtBackend, plain: OrtBackend, buffer: WiderReadBuffer, rounds: int
) -> bool:
    step = Step(1, CONTEXT)
    fastest, paper = fastest_variant(made.reference, step), paper_variant(made.reference, step)
    with Session(backend) as session, Session(plain) as beside:
        # The cache beyond the context holds numbers too: untouched pages are one shared page, and fast.
        for one in (session, beside):
            made.prompt(CONTEXT).append_to(one)
            made.prompt(one.capacity - CONTEXT).append_to(one)
        context, capacity = session.checkpoint_at(CONTEXT), session.capacity
        contenders = {
            "ours": Contender(lambda: session.decode(7), 5, lambda: session.rewind(context)),
            "plain": Contender(lambda: beside.decode(7), 5, lambda: beside.rewind(context)),
            "paper": Contender(paper.run, 3),
            "fastest": Contender(fastest.run, 3),
            **{name: Contender(read) for name, read in buffer.readers.items()},
        }
        times = interleave(contenders, rounds=rounds)
    weights = made.decoder_weight_bytes
    visible = cache_bytes(backend.traits.config.decoder, batch=1, capacity=CONTEXT + 1, element_bytes=4)
    achieved = (weights + visible) / times["ours"] / 1e9
    reads = buffer.bandwidth({name: times[name] for name in buffer.readers})
    best = next(iter(reads))
    print(f"\ndecode behind {CONTEXT} tokens, capacity {capacity}, {rounds} rounds: median (all rounds)")
    for name, values in reads.items():
        print(f"  {'read: ' + name:46} {spread(values / 1e9)} GB/s{', the measure' if name == best else ''}")
    _print_times(times, fastest.name)
    print(f"  {'weights + visible cache':46} {weights / 1e9:.3f} + {visible / 1e9:.3f} GB a step")
    print(f"  {'decode reads':46} {spread(achieved)} GB/s")
    return _print_share("share of the read bandwidth", achieved / (reads[best] / 1e9), DECODE_SHARE)


def _prefill(
    made: SpeedBundle, backend: OrtBackend, plain: OrtBackend, bare: BareMatMuls, tokens: int, rounds: int
) -> bool:
    step = Step(tokens, 0)
    fastest, paper = fastest_variant(made.reference, step), paper_variant(made.reference, step)
    text, image = made.prompt(tokens), made.prompt(tokens, with_image=True)
    contenders = {
        "bare": Contender(bare.runner(tokens)),
        "ours": Contender(lambda: _first_prefill(backend, text)),
        "plain": Contender(lambda: _first_prefill(plain, text)),
        "with an image": Contender(lambda: _first_prefill(backend, image)),
        "paper": Contender(paper.run),
        "fastest": Contender(fastest.run),
    }
    times = interleave(contenders, rounds=rounds)
    flops = bare.flops(tokens)
    print(f"\nprefill of {tokens} tokens, {rounds} rounds: median (all rounds)")
    print(
        f"  {'bare MatMuls':46} {spread(times['bare'] * 1e3, 0)} ms, {spread(flops / times['bare'] / 1e9, 0)} GFLOP/s"
    )
    _print_times(times, fastest.name)
    shares = {
        "text": times["bare"] / times["ours"],
        "one image and text": times["bare"] / times["with an image"],
    }
    passed = [
        _print_share(f"share of the bare rate, {name}", share, PREFILL_SHARE)
        for name, share in shares.items()
    ]
    return all(passed)


def _first_prefill(backend: OrtBackend, prompt: Prompt) -> None:
    """A new session's first prompt, its caches' allocation included."""
    with Session(backend) as session:
        prompt.append_to(session)


def _print_times(times: dict[str, Seconds], fastest: str) -> None:
    names = {
        "ours": "neo_edge, from the prepacked cache",
        "plain": "neo_edge, loaded from the bundle",
        "with an image": "one image and text, from the prepacked cache",
        "paper": "PyTorch reference",
        "fastest": f"fastest PyTorch ({fastest})",
    }
    for name, shown in names.items():
        if name in times:
            beside = (
                ""
                if name in ("ours", "with an image")
                else f", {spread(times[name] / times['ours'])} x neo_edge's"
            )
            print(f"  {shown:46} {spread(times[name] * 1e3, 1)} ms{beside}")


def _print_share(of: str, share: Seconds, wanted: float) -> bool:
    passed = bool(np.median(share) >= wanted)
    print(f"  {of:46} {spread(share, 3)}, wanted {wanted}{'' if passed else ': MISSED'}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
