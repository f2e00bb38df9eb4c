"""Builds real TensorRT-RTX engines ahead of time, without a GPU, and prints what was built for which GPU.

The nano checkpoint and a two-layer slice of the 2b preset, in float16, INT8 and INT4; the decoder with a prefill and a
decode profile, and the vision graph. It shows that the graphs are taken and engines come out, and what building took.
That an engine runs, and how fast, only a GPU shows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command_line import neo_edge
from PIL import Image
from quantize_scale import without_calibration

from neo_edge.bundle import open_bundle
from neo_edge.byte_size import show_bytes
from neo_edge.checkpoint_presets import preset_config
from neo_edge.engines import EngineLimits
from neo_edge.errors import EngineBuildError, MissingExtraError
from neo_edge.random_checkpoint import write_random_checkpoint
from neo_edge_calibration import calibrate
from neo_edge_export.bundle_export import ExportOptions, export_bundle
from neo_edge_export.quantization.quantize import QuantizeOptions, quantize
from neo_edge_export.quantization.recipes import RECIPES
from neo_edge_export.tensorrt.installed import Installed, find_tensorrt
from neo_edge_export.tensorrt.layer_listing import NetworkListing
from neo_edge_export.tensorrt.plan_building import BuildOptions, build_plan
from neo_edge_export.tensorrt.shape_ranges import decoder_ranges, vision_ranges
from neo_edge_runtime import Request
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.processors import usable_physical_cores

COMPUTE_CAPABILITIES = ("80", "86", "89", "120")  # A100, Ampere and Ada workstations, Blackwell workstations
QUANTIZED = ("int8", "int4-portable")  # recipes, and their variants
CALIBRATION_SAMPLES = 8  # enough for a graph that is built and never run
LIMITS = EngineLimits(
    max_context=4096, max_chunk=1024, max_batch=1, max_logits_rows=16, max_patches=4096
)  # neo-edge build's own
_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class EngineCase:
    """One engine that was built, or why it was not."""

    model: str
    variant: str
    part: str  # decoder or vision
    compute_capability: str
    refused: str  # empty: it was built
    weight_bytes: int
    plan_bytes: int = 0
    build_s: float = 0.0
    peak_bytes: int = 0  # resident memory that the build added at its peak
    profiles: int = 0
    network: NetworkListing | None = None


def engine_cases(
    installed: Installed, model: str, folder: Path, capabilities: Sequence[str] = COMPUTE_CAPABILITIES
) -> Iterator[EngineCase]:
    """Builds both graphs of a variant's folder for each compute capability."""
    ranges = {"decoder": decoder_ranges(LIMITS), "vision": vision_ranges(LIMITS)}
    for part, profiles in ranges.items():
        weights = (folder / f"{part}.onnx.data").stat().st_size
        for capability in capabilities:
            before = _reset_peak()
            started = time.perf_counter()
            try:
                plan = build_plan(
                    installed, folder / f"{part}.onnx", profiles, BuildOptions(capability, None, False)
                )
            except EngineBuildError as error:
                yield EngineCase(model, folder.name, part, capability, str(error), weights)
                continue
            yield EngineCase(
                model,
                folder.name,
                part,
                capability,
                "",
                weights,
                plan.buffer.nbytes,
                time.perf_counter() - started,
                _status_bytes("VmHWM") - before,
                len(profiles),
                plan.network,
            )


def nano_variants(folder: Path) -> list[Path]:
    """The shipped checkpoint's portable graphs in float16, INT8 and INT4; a folder each."""
    bundle = folder / "nano.bundle"
    precisions = ("--precision", "fp32", "--precision", "fp16", "--ops", "portable")
    neo_edge("export", "neo-ov-nano", "-o", bundle, *precisions, "--verify-slice", "0:1")
    neo_edge("calibrate", bundle, "--data", "nano", "--samples", CALIBRATION_SAMPLES, "--threads", 1)
    for recipe in QUANTIZED:
        source = ("--source", "fp16-portable", "--data", "none", "--threads", 1)
        neo_edge("quantize", bundle, "--recipe", recipe, *source)
    return [bundle / name for name in ("fp16-portable", *QUANTIZED)]


def slice_variants(folder: Path, preset: str, *, layers: int = 2, vocab: int | None = None) -> list[Path]:
    """The same of a slice of a preset with random weights.

    Its recipes are without smoothing and compensation, which take minutes at such widths and change no graph.

    Args:
        folder: where to write the checkpoint and the bundle.
        preset: its shape.
        layers: of the slice.
        vocab: a smaller vocabulary, which takes a quarter of the time; None: the preset's.
    """
    raw = preset_config(preset, layers=layers)
    if vocab is not None:
        raw["llm_config"]["vocab_size"] = vocab
        raw["llm_config"]["eos_token_id"] = 0
        for offset, name in enumerate(("context", "start", "end")):
            raw[f"img_{name}_token_id"] = vocab - 3 + offset
    write_random_checkpoint(folder / "checkpoint", raw)
    target = folder / "slice.bundle"
    options = ExportOptions(("fp32", "fp16"), ("portable",), verify_slice=range(1))
    export_bundle(folder / "checkpoint", target, options)
    prompts = _random_prompts(raw["img_start_token_id"], raw["img_context_token_id"], raw["img_end_token_id"])
    calibrate(target, prompts, samples=CALIBRATION_SAMPLES, threads=1)
    for recipe in QUANTIZED:
        quick = without_calibration(RECIPES[recipe])
        quantize(open_bundle(target), quick, None, QuantizeOptions(source="fp16-portable"))
    return [target / name for name in ("fp16-portable", *QUANTIZED)]


def _random_prompts(start: int, context: int, end: int) -> list[Request]:
    """Token ids and a noisy picture each."""
    rng = np.random.default_rng(0)
    return [
        Request(
            [*rng.integers(1, 1000, 8).tolist(), start, context, end, *rng.integers(1, 1000, 8).tolist()],
            images=[Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))],
        )
        for _ in range(CALIBRATION_SAMPLES)
    ]


def table(cases: Sequence[EngineCase]) -> Iterator[str]:
    """One row for each graph, one column for each compute capability."""
    capabilities = list(dict.fromkeys(case.compute_capability for case in cases))
    yield (
        "| model | variant | engine | profiles | weights | "
        + " | ".join(f"SM{name}" for name in capabilities)
        + " |"
    )
    yield "|---" * (5 + len(capabilities)) + "|"
    rows: dict[tuple[str, str, str], dict[str, EngineCase]] = {}
    for case in cases:
        rows.setdefault((case.model, case.variant, case.part), {})[case.compute_capability] = case
    for (model, variant, part), row in rows.items():
        first = next(iter(row.values()))
        cells = [_cell(row[name]) if name in row else "not tried" for name in capabilities]
        yield f"| {model} | {variant} | {part} | {first.profiles} | {show_bytes(first.weight_bytes)} | " + (
            " | ".join(cells) + " |"
        )


def main() -> int:
    """Prints the table; 1 when an engine was not built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="2b", help="of the slice (default 2b)")
    parser.add_argument("--layers", type=int, default=2, help="of the slice (default 2)")
    args = parser.parse_args()
    try:
        installed = find_tensorrt("tensorrt-rtx")
    except MissingExtraError as error:
        print(f"not run: {error}")
        return 0
    describe_device(usable_physical_cores())
    print(
        f"TensorRT-RTX {installed.version}; plan, seconds and peak memory of building; no GPU: none was run\n"
    )
    cases: list[EngineCase] = []
    with tempfile.TemporaryDirectory() as folder:
        for graphs in nano_variants(Path(folder)):
            cases += engine_cases(installed, "neo-ov-nano", graphs)
    with tempfile.TemporaryDirectory() as folder:
        for graphs in slice_variants(Path(folder), args.preset, layers=args.layers):
            cases += engine_cases(installed, f"{args.preset}, {args.layers} layers", graphs)
    for line in table(cases):
        print(line)
    refused = [case for case in cases if case.refused]
    for case in refused:
        print(f"\n{case.model} {case.part} SM{case.compute_capability}: {case.refused}")
    return 1 if refused else 0


def _cell(case: EngineCase) -> str:
    if case.refused:
        return "**refused**"
    return f"{show_bytes(case.plan_bytes)}, {case.build_s:.1f} s, {show_bytes(case.peak_bytes)}"


def _reset_peak() -> int:
    """Lets the peak begin anew; the resident bytes now."""
    try:
        _RESET_PEAK.write_text("5")
    except OSError:  # no Linux: peaks are of the whole process then
        return 0
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else []:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    sys.exit(main())
