"""Speed beside llama.cpp and PyTorch at NEO-ov 2B's widths with four layers, in 8 and 4 bits.

Installs llama-cpp-python 0.3.36 from its sources (they hold llama.cpp; cmake and gcc build it for this processor, in
15 minutes on one core) and gguf 0.19 into an environment of their own in neo_edge's cache folder, once. Needs an
installation of neo_edge with its `dev` extra, and 10 GB of disk; llama.cpp's files, 3 GB of it, stay in that folder.

llama.cpp runs a plain Qwen3 of the same widths with random weights, which llama.cpp itself quantized. NEO-ov has more:
a second pair of query and key products in every layer, and keys twice as wide. So times are told for each weight, and
arithmetic as a rate. All take turns within a round; a ratio is taken within a round; medians of all rounds.

`int8-dynamic` and `int4` run on neo_edge's own kernels, from a prepacked cache: a C++ compiler and AVX-512 VNNI are
needed. The same bundle in ONNX Runtime, loaded plainly, stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from llama_server import (
    ENVIRONMENT,
    FORMATS,
    LlamaServer,
    cache_bytes_of,
    make_files,
    table_share,
    weights_of,
)
from peer_environment import PEERS
from plain_model import plain_widths, plainly_rounded
from qwen3_gguf import product_shapes
from speed_harness import SpeedBundle, make_speed_bundle, neo_edge
from torch_variants import TorchVariants

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.config import DecoderConfig
from neo_edge_export.bench.more_readers import WiderReadBuffer
from neo_edge_export.bench.torch_speed import Step
from neo_edge_export.quantization.float_graph import FloatGraph
from neo_edge_export.quantization.recipes import RECIPES
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.measuring import decoder_weight_bytes
from neo_edge_runtime.bench.prompts import text_prompt
from neo_edge_runtime.bench.timing import Contender, Seconds, interleave
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked_build import fill_cache
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.session import Session

PAST = 512  # tokens in the cache when decoding
PREFILLS = (320, 1024)
TOKEN = 7
OURS = ("int8-dynamic", "int4")
HEAD_TOO = "int4-head-too"
IN_ONNX_RUNTIME = {f"{name}, ONNX Runtime": name for name in OURS}  # variants by contender
EIGHT, FOUR = "llama.cpp Q8_0", "llama.cpp Q4"
DECODE_SHARE, PREFILL_RATIO = 0.85, 2.0  # what must be reached


@dataclass(frozen=True)
class Load:
    """What a contender does in a step and in a prefill."""

    weights: int  # numbers in its products, head included
    weight_bytes: int  # as stored
    cache_bytes: int  # visible ones
    products: tuple[tuple[int, int, bool], ...]  # inputs, outputs, whether it is the head

    def flops(self, rows: int) -> float:
        """Of a prefill's products; the head makes one row."""
        return sum(2.0 * (1 if head else rows) * inputs * outputs for inputs, outputs, head in self.products)


def main() -> int:
    """Prints the tables; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", choices=("2b", "tiny"), default="2b", help="tiny: a quick try")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 10 GB of files lie meanwhile")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch's variants out")
    parser.add_argument("--compile", action="store_true", help="torch.compile among them: minutes more")
    parser.add_argument("--prepare", action="store_true", help="only make the peer's environment")
    args = parser.parse_args()
    ENVIRONMENT.make()
    if args.prepare:
        return 0
    torch.set_num_threads(args.threads)
    describe_device(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    files = PEERS / "llama_cpp_models" / args.preset
    folder = Path(tempfile.mkdtemp(prefix="llama-cpp-", dir=args.out))
    os.environ["NEO_EDGE_CACHE_DIR"] = str(folder / "cache")
    try:
        return 0 if _Comparison(folder, files, args).run() else 1
    finally:
        shutil.rmtree(folder)


class _Comparison:
    """All contenders, loaded."""

    def __init__(self, folder: Path, files: Path, args: argparse.Namespace) -> None:
        self._args, self._folder = args, folder
        self._made: SpeedBundle = make_speed_bundle(folder, args.preset)
        self._bundle = _quantized(self._made.bundle, folder)
        config = self._bundle.manifest.model.decoder
        self._widths = plain_widths(config)
        self._files = make_files(files, self._widths, args.threads)
        self._loads = self._all_loads(config)

    def run(self) -> bool:
        """Prints everything; whether every aim is reached."""
        threads = self._args.threads
        with ExitStack() as opened:
            backends = {name: self._with_kernels(name) for name in (*OURS, HEAD_TOO)}
            for name, variant in IN_ONNX_RUNTIME.items():
                backends[name] = OrtBackend(self._bundle, variant, threads=threads, prepacked="off")
            for backend in backends.values():
                opened.callback(backend.close)
            servers = {
                one.name: opened.enter_context(LlamaServer(self._files[one], threads)) for one in FORMATS
            }
            print(f"\nllama-cpp-python 0.3.36, {next(iter(servers.values())).system}")
            print(f"{', '.join((*OURS, HEAD_TOO))}: kernels of neo_edge's own, {backends[HEAD_TOO].kernels}")
            variants = (
                None
                if self._args.no_torch
                else TorchVariants(self._made.reference, compiled=self._args.compile)
            )
            os.sync()
            passed = [self._decode(servers, backends, variants)]
            passed += [self._prefill(servers, backends, variants, tokens) for tokens in PREFILLS]
        return all(passed)

    def _with_kernels(self, name: str) -> OrtBackend:
        """Ends the program where ONNX Runtime would compute the decoder."""
        filled = fill_cache(self._bundle, name)
        backend = OrtBackend(self._bundle, name, threads=self._args.threads)
        if backend.kernels == "ONNX Runtime":
            why = filled.without_kernels or "they do not load, as logged"
            print(
                f"{name} runs on ONNX Runtime's kernels, and neo_edge's own are to be measured: {why}: MISSED"
            )
            raise SystemExit(1)
        return backend

    def _all_loads(self, config: DecoderConfig) -> dict[str, Load]:
        fp32 = self._bundle.variant("fp32")
        products = tuple(
            (product.inputs, product.outputs, "lm_head" in product.weight)
            for product in FloatGraph(self._bundle.path(fp32.decoder), "decoder").products
        )
        weights = sum(inputs * outputs for inputs, outputs, _ in products)
        visible = cache_bytes(config, batch=1, capacity=PAST + 1, element_bytes=4)
        variants = {name: name for name in (*OURS, HEAD_TOO)} | IN_ONNX_RUNTIME
        loads = {
            name: Load(weights, decoder_weight_bytes(self._bundle, variant), visible, products)
            for name, variant in variants.items()
        }
        theirs = tuple(product_shapes(self._widths))
        for one, path in self._files.items():
            size = path.stat().st_size - table_share(path, ENVIRONMENT.python)
            loads[one.name] = Load(
                weights_of(self._widths), size, cache_bytes_of(self._widths, PAST + 1), theirs
            )
        return loads

    def _decode(
        self,
        servers: Mapping[str, LlamaServer],
        backends: Mapping[str, OrtBackend],
        variants: TorchVariants | None,
    ) -> bool:
        contenders: dict[str, Contender] = {}
        special = self._made.bundle.manifest.special_tokens
        assert special is not None
        with ExitStack() as opened:
            for name, backend in backends.items():
                session = opened.enter_context(Session(backend))
                text_prompt(self._bundle.manifest.model, special, PAST).append_to(session)
                # The cache beyond the context holds numbers too: untouched pages are one shared page, and fast.
                beyond = session.capacity - PAST
                text_prompt(self._bundle.manifest.model, special, beyond).append_to(session)
                start = session.checkpoint_at(PAST)
                contenders[name] = Contender(
                    partial(session.decode, TOKEN), 5, partial(session.rewind, start)
                )
            for name, server in servers.items():
                server.rewind(0)
                server.prefill(2 * PAST)
                contenders[name] = Contender(partial(server.decode, PAST), 5, partial(server.rewind, PAST))
            contenders |= _torch_contenders(variants, Step(1, PAST), 3)
            buffer = WiderReadBuffer(self._args.threads, folder=self._folder)
            readers = {name: Contender(read) for name, read in buffer.readers.items()}
            times = interleave(contenders | readers, rounds=self._args.rounds)
        reads = buffer.bandwidth({name: times[name] for name in readers})
        best, rate = next(iter(reads.items()))
        print(f"\ndecode behind {PAST} tokens; the machine reads {np.median(rate) / 1e9:.1f} GB/s ({best})\n")
        print("| | ms a step | ps a weight | bits a weight | GB a step | share of the bandwidth |")
        print("|---|---|---|---|---|---|")
        shares: dict[str, float] = {}
        for name in contenders:
            load = self._loads.get(name)
            cells = [f"{1e3 * np.median(times[name]):.2f}"]
            if load is not None:
                read = load.weight_bytes + load.cache_bytes
                shares[name] = float(np.median(read / times[name] / rate))
                cells += [
                    f"{1e12 * np.median(times[name]) / load.weights:.2f}",
                    f"{8 * load.weight_bytes / load.weights:.2f}",
                    f"{read / 1e9:.3f}",
                    f"{shares[name]:.3f}",
                ]
            print(f"| {name} | {' | '.join(cells)} |")
        print()
        per_weight = {name: times[name] / self._loads[name].weights for name in self._loads}
        four = [name for name in self._loads if name.startswith(FOUR)]
        quickest = min(four, key=lambda name: float(np.median(per_weight[name])))
        passed = [
            _verdict("int8-dynamic, share of the bandwidth", shares["int8-dynamic"], least=DECODE_SHARE),
            _verdict(
                "int8-dynamic, time a weight over Q8_0's", _ratio(per_weight, "int8-dynamic", EIGHT), most=1
            ),
            _verdict(
                "int4, time over int8-dynamic's",
                float(np.median(times["int4"] / times["int8-dynamic"])),
                most=1,
            ),
            _verdict(
                f"int4, time a weight over the fastest 4 bits ({quickest})",
                _ratio(per_weight, "int4", quickest),
                most=1,
            ),
        ]
        print(f"  {HEAD_TOO}, the same: {_ratio(per_weight, HEAD_TOO, quickest):.3f}")
        _print_gains(times)
        _print_torch(times, [name for name in contenders if name.startswith("torch")])
        return all(passed)

    def _prefill(
        self,
        servers: Mapping[str, LlamaServer],
        backends: Mapping[str, OrtBackend],
        variants: TorchVariants | None,
        tokens: int,
    ) -> bool:
        special = self._made.bundle.manifest.special_tokens
        assert special is not None
        prompt = text_prompt(self._bundle.manifest.model, special, tokens)
        with ExitStack() as opened:
            # Both have their caches already, from the rounds before the first.
            contenders: dict[str, Contender] = {}
            for name, backend in backends.items():
                session = opened.enter_context(Session(backend))
                run, rewind = partial(prompt.append_to, session), partial(session.rewind, session.checkpoint)
                contenders[name] = Contender(run, prepare=rewind)
            contenders |= {
                name: Contender(partial(server.prefill, tokens), prepare=partial(server.rewind, 0))
                for name, server in servers.items()
            }
            contenders |= _torch_contenders(variants, Step(tokens, 0), 1)
            times = interleave(contenders, rounds=self._args.rounds)
        rates = {
            name: load.flops(tokens) / times[name] / 1e9
            for name, load in self._loads.items()
            if name in times
        }
        print(f"\nprefill of {tokens} tokens\n\n| | ms | GFLOP/s in products |\n|---|---|---|")
        for name in contenders:
            rate = f"{np.median(rates[name]):.0f}" if name in rates else ""
            print(f"| {name} | {1e3 * np.median(times[name]):.0f} | {rate} |")
        print()
        passed = _verdict(
            f"int8-dynamic, rate over Q8_0's at {tokens}",
            float(np.median(rates["int8-dynamic"] / rates[EIGHT])),
            least=PREFILL_RATIO,
        )
        best = max((name for name in rates if name.startswith(FOUR)), key=lambda name: np.median(rates[name]))
        print(f"  int4, rate over {best}'s: {float(np.median(rates['int4'] / rates[best])):.2f}")
        _print_gains(times)
        _print_torch(times, [name for name in contenders if name.startswith("torch")])
        return passed


def _quantized(bundle: Bundle, folder: Path) -> Bundle:
    recipes = {name: plainly_rounded(RECIPES[name], name, RECIPES[name].layers) for name in OURS}
    int4 = RECIPES["int4"]
    body = [rule for rule in int4.layers if rule.weights != "decoder.lm_head"]
    recipes[HEAD_TOO] = plainly_rounded(int4, HEAD_TOO, body)
    for name, recipe in recipes.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        neo_edge("quantize", bundle.root, "--recipe", path, "--data", "none", "--force")
    return open_bundle(bundle.root)


def _torch_contenders(variants: TorchVariants | None, step: Step, repeats: int) -> dict[str, Contender]:
    if variants is None:
        return {}
    return {name: Contender(run, repeats) for name, run in variants.runners(step).items()}


def _print_gains(times: Mapping[str, Seconds]) -> None:
    for name, variant in IN_ONNX_RUNTIME.items():
        print(
            f"  {variant} is {np.median(times[name] / times[variant]):.2f} times as fast as in ONNX Runtime"
        )


def _print_torch(times: Mapping[str, Seconds], names: list[str]) -> None:
    if not names:
        return
    fastest = min(names, key=lambda name: float(np.median(times[name])))
    for ours in OURS:
        print(f"  {ours} is {np.median(times[fastest] / times[ours]):.2f} times as fast as {fastest}")


def _ratio(per_weight: Mapping[str, Seconds], name: str, other: str) -> float:
    return float(np.median(per_weight[name] / per_weight[other]))


def _verdict(of: str, found: float, *, least: float | None = None, most: float | None = None) -> bool:
    passed = (least is None or found >= least) and (most is None or found <= most)
    wanted = f"at least {least}" if least is not None else f"at most {most}"
    print(f"  {of}: {found:.3f}, wanted {wanted}{'' if passed else ': MISSED'}", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
