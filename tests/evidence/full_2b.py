"""The full 2b shape answers a question about a 640x480 picture on this CPU.

Random weights of the preset's real shape, in float32 where that fits the memory and the disk, else in float16, and
rounded from that by recipes, prepacked, with kernels of neo_edge's own where they can be built. The question is random
token ids, since the preset has no tokenizer. Each answer has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from command_line import neo_edge, neo_edge_json
from preset_size import parameters, preset_model, require_disk
from quantize_scale import without_calibration

from neo_edge.bundle import open_bundle
from neo_edge.byte_size import show_bytes
from neo_edge_export.quantization.recipes import RECIPES
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.bench.image_stages import random_jpeg
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.processors import usable_physical_cores

ITEM_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
BESIDE_BYTES = 1 << 30  # caches, scratch and the interpreter
QUESTION = (9, 24)  # token ids before the picture and behind it
FIRST_ID = 1000  # of the question's ids where the vocabulary has so many


def main() -> int:
    """Prints what each answer cost; 1 when one is not whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--layers", type=int, help="decoder layers (default: the preset's)")
    parser.add_argument("--precision", choices=("fp32", "fp16"), help="default: the widest that fits")
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--answers", type=int, default=3, help="each in a process of its own (default 3)")
    parser.add_argument(
        "--recipes", nargs="*", choices=("int8-dynamic", "int4"), default=["int8-dynamic", "int4"]
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="where 24 GB of files lie meanwhile")
    args = parser.parse_args()
    count = parameters(preset_model(args.preset, args.layers))
    args.out.mkdir(parents=True, exist_ok=True)
    precision = args.precision or _widest(count, args.out)
    require_disk(args.out, count * (ITEM_BYTES["bf16"] + ITEM_BYTES[precision]))
    describe_device(args.threads)
    folder = Path(tempfile.mkdtemp(prefix="full-", dir=args.out))
    os.environ["NEO_EDGE_CACHE_DIR"] = str(folder / "cache")
    try:
        bundle = _make_bundle(args.preset, args.layers, precision, folder)
        print(
            f"\n{args.preset}, {count:,} parameters, {args.threads} threads, a 640x480 picture\n\n{precision}"
        )
        whole = [_ask(bundle, precision, folder, args)]
        for recipe in args.recipes:
            print(f"\n{recipe}, {_quantize(bundle, recipe, folder)}")
            whole.append(_ask(bundle, recipe, folder, args))
        return 0 if all(whole) else 1
    finally:
        shutil.rmtree(folder)


def _widest(count: int, out: Path) -> str:
    """float32 where the weights fit the free memory and, beside the checkpoint, the disk."""
    free, size = available_memory_bytes(), ITEM_BYTES["fp32"] * count
    on_disk = shutil.disk_usage(out).free >= size + ITEM_BYTES["bf16"] * count
    return "fp32" if on_disk and (free is None or free >= size + BESIDE_BYTES) else "fp16"


def _make_bundle(preset: str, layers: int | None, precision: str, folder: Path) -> Path:
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    depth = [] if layers is None else ["--layers", layers]
    neo_edge("make-checkpoint", "--preset", preset, *depth, "-o", checkpoint)
    started = time.perf_counter()
    options = ["--precision", precision, "--verify-layers", 1, "--verify-slice", "0:2"]
    neo_edge("export", checkpoint, "-o", bundle, *options)
    print(f"export, layers 0 and 1 compared: {time.perf_counter() - started:.0f} s")
    shutil.rmtree(checkpoint)
    return bundle


def _quantize(bundle: Path, recipe: str, folder: Path) -> str:
    """Adds a variant, prepacks it, and tells what that took."""
    path = folder / f"{recipe}.json"
    path.write_text(json.dumps(asdict(without_calibration(RECIPES[recipe]))))
    started = time.perf_counter()
    neo_edge("quantize", bundle, "--recipe", path, "--data", "none")
    quantized = time.perf_counter()
    entry = neo_edge_json("prepack", bundle, "--variant", recipe)
    kernels = "kernels of neo_edge's own" if entry["kernels"] else f"without them: {entry['without_kernels']}"
    return (
        f"quantized in {quantized - started:.0f} s, prepacked in {time.perf_counter() - quantized:.0f} s "
        f"({show_bytes(entry['size_bytes'])}), {kernels}"
    )


def _ask(bundle: Path, variant: str, folder: Path, args: argparse.Namespace) -> bool:
    model = open_bundle(bundle).manifest.model
    picture = folder / "picture.jpg"
    picture.write_bytes(random_jpeg(640, 480))
    before, behind = QUESTION
    first = min(FIRST_ID, model.decoder.vocab_size // 2)
    ids = [first + number for number in range(before + behind)]
    ids[before:before] = [model.img_start_token_id, model.img_context_token_id, model.img_end_token_id]
    arguments = ["run", bundle, " ".join(map(str, ids)), "--token-ids", "--image", picture]
    arguments += ["--variant", variant, "--threads", args.threads, "--max-new-tokens", args.new_tokens]
    costs = []
    for number in range(args.answers):
        started = time.perf_counter()
        answer = neo_edge_json(*arguments)
        seconds = time.perf_counter() - started
        costs.append(answer["usage"])
        _print_answer(number + 1, answer, seconds)
    firsts = [cost["time_to_first_token_ms"] for cost in costs]
    rates = [cost["tokens_per_second"] for cost in costs if cost["tokens_per_second"]]
    peaks = [cost["peak_memory_bytes"] for cost in costs]
    print(
        f"  median: first token after {statistics.median(firsts) / 1e3:.2f} s, "
        f"{statistics.median(rates):.2f} tokens/s, peak memory {show_bytes(max(peaks))} (mapped files included)"
    )
    return all(cost["completion_tokens"] == args.new_tokens for cost in costs)


def _print_answer(number: int, answer: dict[str, Any], seconds: float) -> None:
    usage = answer["usage"]
    print(
        f"  answer {number}: {usage['prompt_tokens']} prompt tokens ({usage['visual_tokens']} visual), first token "
        f"after {usage['time_to_first_token_ms'] / 1e3:.2f} s, {usage['completion_tokens']} tokens at "
        f"{usage['tokens_per_second'] or 0:.2f} tokens/s, peak memory {show_bytes(usage['peak_memory_bytes'])}, "
        f"{seconds:.1f} s with loading",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
