"""What the prepacked cache brings at NEO-ov 2B's widths with four layers, in float32 and in int8.

int8 twice: with ONNX Runtime's kernels, as where there is no compiler, and with neo_edge's own, which need one and a
processor with AVX-512 VNNI. Loading, in processes that take turns (the files are in the page cache); memory of two
processes that hold the model at once, the pages of the files written out before; decoding and prefill, in turn within
a round. int8 is rounded plainly: speed and memory do not depend on the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from command_line import neo_edge, neo_edge_json
from loaded_process import LoadedProcess

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.byte_size import show_bytes
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.prompts import Prompt, text_prompt
from neo_edge_runtime.bench.timing import Contender, interleave, spread
from neo_edge_runtime.cpu.build import MOST_LOGIT_ERROR
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.ort_memory import weight_bytes
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.session import Session

LAYERS = 4
CONTEXT, PREFILL = 512, 320  # tokens
TOKEN = 7
RECIPE = {
    "name": "int8",
    "profile": "modern",
    "layers": [{"weights": "*", "scheme": "w8a8-token", "rounding": "nearest"}],
}
PRIVATE_SHARE, INT8_LOAD_S = 0.15, 1.0  # what must be reached
MODES = {"bundle": "off", "cache": "auto"}  # by where the weights come from
CASES = (
    ("fp32", False),
    ("int8", False),
    ("int8", True),
)  # variant, and whether its decoder gets kernels of our own
NO_COMPILER = "no-compiler"


def main() -> int:
    """Prints the figures; 1 when something is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--preset", choices=("2b", "tiny"), default="2b", help="tiny: a quick try, all missed"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 9 GB of files lie meanwhile")
    args = parser.parse_args()
    describe_device(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="prepacked-cache-", dir=args.out))
    try:
        os.environ["NEO_EDGE_CACHE_DIR"] = str(folder / "cache")
        bundle = _make_bundle(folder, args.preset)
        passed = [_measure(bundle, variant, kernels, args.threads, args.rounds) for variant, kernels in CASES]
    finally:
        shutil.rmtree(folder)
    return 0 if all(passed) else 1


def _make_bundle(folder: Path, preset: str) -> Bundle:
    checkpoint, recipe = folder / "checkpoint", folder / "int8.json"
    neo_edge("make-checkpoint", "--preset", preset, "--layers", LAYERS, "-o", checkpoint)
    neo_edge("export", checkpoint, "-o", folder / "bundle")
    shutil.rmtree(checkpoint)
    recipe.write_text(json.dumps(RECIPE), encoding="utf-8")
    neo_edge("quantize", folder / "bundle", "--recipe", recipe, "--data", "none", "--force")
    return open_bundle(folder / "bundle")


def _measure(bundle: Bundle, variant: str, kernels: bool, threads: int, rounds: int) -> bool:
    with _compiler(kernels):
        built = neo_edge_json("prepack", bundle.root, "--variant", variant)
    os.sync()  # pages that are not written out yet would count as private
    stored = weight_bytes(bundle.manifest, bundle.variant(variant))
    computed = "neo_edge's own kernels" if built["kernels"] else "ONNX Runtime's kernels"
    print(
        f"\n{variant}, decoder on {computed}: {show_bytes(stored)} in the bundle, {show_bytes(built['size_bytes'])} in "
        f"the cache after {built['seconds']:.1f} s"
    )
    if kernels != built["kernels"]:
        print(f"  neo_edge's own kernels: {built['without_kernels']}: MISSED")
        return False
    passed = [_load(bundle, variant, threads, rounds), _memory(bundle, variant, threads, stored)]
    return all([*passed, _speed(bundle, variant, kernels, threads, rounds)])


@contextmanager
def _compiler(wanted: bool) -> Iterator[None]:
    """Hides it from what is started within, unless it is wanted."""
    before = os.environ.get("CXX")
    if not wanted:
        os.environ["CXX"] = NO_COMPILER
    try:
        yield
    finally:
        os.environ.pop("CXX", None)
        if before is not None:
            os.environ["CXX"] = before


def _load(bundle: Bundle, variant: str, threads: int, rounds: int) -> bool:
    seconds: dict[str, list[float]] = {name: [] for name in MODES}
    for _ in range(rounds):
        for name, mode in MODES.items():
            with LoadedProcess(bundle.root, variant, mode, threads) as process:
                seconds[name].append(process.load_seconds)
    for name, values in seconds.items():
        print(f"  {f'load from the {name}':46} {spread(np.array(values))} s")
    return variant != "int8" or _verdict("load of int8, s", float(np.median(seconds["cache"])), INT8_LOAD_S)


def _memory(bundle: Bundle, variant: str, threads: int, stored: int) -> bool:
    shares = {}
    for name, mode in MODES.items():
        with ExitStack() as stack:
            two = [stack.enter_context(LoadedProcess(bundle.root, variant, mode, threads)) for _ in range(2)]
            for process in two:
                process.memory()  # it answers once it has touched every weight: until then they are the other's alone
            taken = [process.memory() for process in two]
        private = [show_bytes(memory["private"]) for memory in taken]
        proportional = sum(memory["proportional"] for memory in taken)
        print(
            f"  {f'two processes, from the {name}':46} private {' and '.join(private)}; both together (Pss) "
            f"{show_bytes(proportional)}"
        )
        shares[name] = max(memory["private"] for memory in taken) / stored
    return _verdict("private share of the weights' size", shares["cache"], PRIVATE_SHARE)


def _speed(bundle: Bundle, variant: str, kernels: bool, threads: int, rounds: int) -> bool:
    backends = {
        name: OrtBackend(bundle, variant, threads=threads, prepacked="off" if mode == "off" else "auto")
        for name, mode in MODES.items()
    }
    assert backends["cache"].prepacked
    assert (backends["cache"].kernels != "ONNX Runtime") == kernels
    tokens = resolve_special_tokens(None, bundle.manifest.model)
    context, prompt = (text_prompt(bundle.manifest.model, tokens, size) for size in (CONTEXT, PREFILL))
    steps, logits = {}, {}
    for name, backend in backends.items():
        session = Session(backend)
        context.append_to(session)
        # Beyond the context, too: untouched pages of a cache are fast.
        text_prompt(bundle.manifest.model, tokens, session.capacity - CONTEXT).append_to(session)
        start = session.checkpoint_at(CONTEXT)
        steps[name] = Contender(partial(session.decode, TOKEN), 5, partial(session.rewind, start))
        session.rewind(start)
        logits[name] = session.decode(TOKEN).copy()
    prefills = {name: Contender(partial(_prefill, backend, prompt)) for name, backend in backends.items()}
    for what, contenders in (
        (f"decode behind {CONTEXT}", steps),
        (f"prefill of {PREFILL}", prefills),
    ):
        times = interleave(contenders, rounds=rounds)
        for name, values in times.items():
            print(f"  {f'{what}, from the {name}':46} {spread(values * 1e3, 1)} ms")
        print(f"  {f'{what}, cache over bundle':46} {spread(times['cache'] / times['bundle'], 3)}")
    if kernels:
        error = np.sqrt(np.mean((logits["cache"] - logits["bundle"]) ** 2)) / np.std(logits["bundle"])
        return _verdict("difference of logits, of their deviation", float(error), MOST_LOGIT_ERROR)
    equal = bool(np.array_equal(logits["bundle"], logits["cache"]))
    print(f"  {'logits equal to the last bit':46} {'yes' if equal else 'NO'}", flush=True)
    return equal


def _prefill(backend: OrtBackend, prompt: Prompt) -> None:
    with Session(backend) as session:
        prompt.append_to(session)


def _verdict(of: str, found: float, most: float) -> bool:
    passed = found <= most
    print(f"  {of:46} {found:.3f}, wanted at most {most}{'' if passed else ': MISSED'}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
