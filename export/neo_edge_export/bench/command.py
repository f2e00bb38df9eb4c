"""`neo-edge bench`: arguments and printing; the measuring is in `neo_edge_runtime.bench`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from neo_edge.errors import BackendError, InputError, MissingExtraError
from neo_edge.extras import require
from neo_edge.shown import shown
from neo_edge_export.bench.live_command import add_live_arguments, check_live_arguments, run_live
from neo_edge_runtime.backend_choice import DEFAULT_BACKEND
from neo_edge_runtime.commands.model_arguments import (
    add_backend_arguments,
    add_bundle_argument,
    add_prepacked_argument,
    add_threads_argument,
)

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge_runtime.backend_choice import OpenedBackend
    from neo_edge_runtime.bench.measuring import BenchPlan, Figures, Rival
    from neo_edge_runtime.bench.read_bandwidth import ReadBuffer
    from neo_edge_runtime.bench.report import BenchReport
    from neo_edge_runtime.bench.roofline import Bandwidth

_EXAMPLES = """\
examples:
  neo-edge bench nano.bundle
  neo-edge bench my.bundle --prompt-tokens 300 --depth 0,4096 --json
  neo-edge bench my.bundle --vs torch --checkpoint my-checkpoint
  neo-edge bench nano.bundle --live --plot watching.svg

ppN prefills N tokens at once, tgN decodes N one by one; @ dD: behind D tokens
that the cache holds. Prompts are random, so a bundle needs no tokenizer, but
for --live, whose frames carry timestamps.
"""


class BenchCommand:
    """Measures a bundle on this machine."""

    summary = "measure how fast a bundle answers on this machine"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        add_backend_arguments(parser)
        add_threads_argument(parser)
        parser.add_argument(
            "--prompt-tokens",
            type=_numbers,
            default=(320, 1024),
            metavar="N,N",
            help="prompts to prefill (default 320,1024)",
        )
        parser.add_argument(
            "--new-tokens", type=int, default=64, metavar="N", help="tokens to decode (default 64)"
        )
        parser.add_argument(
            "--depth",
            type=_numbers,
            default=(0, 512),
            metavar="D,D",
            help="tokens in the cache before each of them (default 0,512)",
        )
        parser.add_argument(
            "--repetitions", type=int, default=5, metavar="R", help="of everything (default 5)"
        )
        parser.add_argument(
            "--image-size",
            type=_size,
            default=(640, 480),
            metavar="WxH",
            help="of the picture whose way to the first token is timed by stage (default 640x480)",
        )
        parser.add_argument(
            "--vs",
            choices=("torch",),
            help="also time the PyTorch reference in turn, on a GPU eager and compiled; with --checkpoint",
        )
        parser.add_argument("--checkpoint", metavar="DIR", help="what the bundle was exported from, for --vs")
        add_prepacked_argument(parser)
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")
        add_live_arguments(parser, _numbers)
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Measures and prints."""
        if (args.vs is None) != (args.checkpoint is None):
            raise InputError("--vs torch and --checkpoint DIR go together: give both, or neither")
        check_live_arguments(args)
        if args.live:
            return run_live(args)
        from neo_edge.bundle import open_bundle
        from neo_edge_runtime.bench.measuring import BenchPlan

        plan = BenchPlan(
            prompt_tokens=args.prompt_tokens,
            new_tokens=args.new_tokens,
            depths=args.depth,
            repetitions=args.repetitions,
            image_size=args.image_size,
        )
        bundle = open_bundle(args.bundle)
        rival = (
            None
            if args.vs is None
            else _torch_rival(args.checkpoint, bundle, on_gpu=args.backend != DEFAULT_BACKEND)
        )
        report = _measure(bundle, plan, args, rival)
        print(
            json.dumps(report.to_json(), indent=2, ensure_ascii=False)
            if args.json
            else "\n".join(report.lines())
        )
        return 0


bench_command = BenchCommand()


def _measure(
    bundle: Bundle, plan: BenchPlan, args: argparse.Namespace, rival: Callable[[int], Rival] | None
) -> BenchReport:
    from neo_edge_runtime.backend_choice import open_backend
    from neo_edge_runtime.bench.device import device_lines
    from neo_edge_runtime.bench.report import BenchReport
    from neo_edge_runtime.nvidia_devices import used_device_bytes

    if args.backend.startswith("onnxruntime"):
        # Its own import is not the bundle's loading.
        require("onnxruntime", extra="gpu" if args.backend == "onnxruntime-cuda" else "cpu")
    used_before = used_device_bytes() or 0
    started = time.perf_counter()
    opened = open_backend(
        bundle, args.backend, variant=args.variant, threads=args.threads, prepacked=args.prepacked
    )
    load_seconds = time.perf_counter() - started
    device = device_lines(opened.threads)
    try:
        figures = _figures(bundle, opened, plan, rival, used_before)
    finally:
        opened.backend.close()
    return BenchReport(
        bundle=str(args.bundle),
        variant=opened.variant,
        threads=opened.threads,
        device=device,
        date=date.today().isoformat(),
        load_seconds=load_seconds,
        prepacked=opened.prepacked,
        figures=figures,
        backend=opened.name,
        kernels=opened.kernels,
    )


def _figures(
    bundle: Bundle,
    opened: OpenedBackend,
    plan: BenchPlan,
    rival: Callable[[int], Rival] | None,
    used_before: int,
) -> Figures:
    from neo_edge_export.bench.gpu import gpu_bandwidth, gpu_meters
    from neo_edge_runtime.bench.measuring import decoder_weight_bytes, measure
    from neo_edge_runtime.prompt_assembly import text_only_tokens

    manifest, threads, on_gpu = bundle.manifest, opened.threads, opened.name != "onnxruntime"
    buffer: Callable[[], Bandwidth] | None = None
    if on_gpu:
        buffer = gpu_bandwidth
    elif rival is not None:
        buffer = partial(_wider_buffer, threads)
    return measure(
        opened.backend,
        manifest.special_tokens or text_only_tokens(manifest.model),
        plan,
        weight_bytes=decoder_weight_bytes(bundle, opened.variant),
        takes_images=manifest.special_tokens is not None,
        threads=threads,
        rival=None if rival is None else lambda: rival(threads),
        buffer=buffer,
        gpu=gpu_meters(used_before) if on_gpu else None,
    )


def _torch_rival(checkpoint: str, bundle: Bundle, *, on_gpu: bool) -> Callable[[int], Rival]:
    """Checks what can be checked now; loads the reference when it is called with a number of threads."""
    for package in ("torch", "onnx"):
        # Importing them would count as the bundle's memory.
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export")
    from neo_edge.checkpoint import open_checkpoint, resolve_checkpoint

    opened = open_checkpoint(resolve_checkpoint(checkpoint))
    if opened.config != bundle.manifest.model:
        raise InputError(
            f"{checkpoint} is another model than the one in {bundle.root}: give the checkpoint it was exported from"
        )

    def load(threads: int) -> Rival:
        torch = require("torch", extra="export")
        if on_gpu:
            if not torch.cuda.is_available():
                raise BackendError(
                    f"PyTorch {torch.__version__} sees no GPU to compare on: install a CUDA build, or leave --vs out"
                )
            from neo_edge_export.bench.torch_gpu import TorchGpuRival
            from neo_edge_export.reference_loading import load_reference

            return TorchGpuRival(load_reference(opened).language_model)
        torch.set_num_threads(threads)
        from neo_edge_export.bench.torch_speed import TorchRival
        from neo_edge_export.reference_loading import load_reference

        return TorchRival(load_reference(opened).language_model)

    return load


def _wider_buffer(threads: int) -> ReadBuffer:
    from neo_edge_export.bench.more_readers import WiderReadBuffer

    return WiderReadBuffer(threads)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no list of whole numbers, such as 320,1024"
        ) from None


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no size: write it like 640x480") from None
