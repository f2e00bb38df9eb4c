"""`neo-edge inspect`: what is in a bundle or a checkpoint, and what it takes to run it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.byte_size import show_bytes
from neo_edge.errors import NeoEdgeError

if TYPE_CHECKING:
    from neo_edge_runtime.engine_inspection import EngineReport, PlanReport
    from neo_edge_runtime.inspection import ModelReport, VariantReport

_COLUMNS = 78
_EXAMPLES = """\
examples:
  neo-edge inspect my.bundle --context 16384
  neo-edge inspect neo-ov-nano --json
  neo-edge inspect my.bundle/engines/tensorrt-rtx-1.7.1.116-sm86-0123456789ab

Memory is what sessions check their requests against before anything runs: the
weights, and the worst moment of one session whose context is full.
"""


class InspectCommand:
    """Describes a bundle or a checkpoint."""

    summary = "show what a bundle or a checkpoint holds and takes"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares what to look at."""
        parser.add_argument(
            "path",
            metavar="BUNDLE|CHECKPOINT",
            type=Path,
            help="its directory, or whatever export takes, or a folder in a bundle's engines/",
        )
        parser.add_argument(
            "--context",
            type=int,
            default=4096,
            metavar="N",
            help="tokens of the conversation to sum up memory for (default 4096)",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Prints it."""
        from neo_edge_runtime.engine_inspection import inspect_engine_folder, is_engine_folder
        from neo_edge_runtime.inspection import inspect

        if is_engine_folder(args.path):
            engines = inspect_engine_folder(args.path)
            if args.json:
                print(json.dumps({name: asdict(each) for name, each in engines.items()}, indent=2))
            else:
                print("\n".join(engine_lines(engines)).lstrip())
            return 0
        report = inspect(_directory(args.path), args.context)
        if args.json:
            print(json.dumps(report.to_dict(), indent=2))
            return 0
        for line in _lines(report):
            print(line)
        return 0


inspect_command = InspectCommand()


def _directory(path: Path) -> Path:
    from neo_edge.checkpoint import resolve_checkpoint
    from neo_edge.manifest import MANIFEST_FILE

    if not path.is_dir():
        return resolve_checkpoint(str(path))
    if not any((path / name).exists() for name in (MANIFEST_FILE, "config.json")):
        raise NeoEdgeError(
            f"{path} holds neither {MANIFEST_FILE} nor config.json, so it is no bundle and no checkpoint: give the "
            "directory of one"
        )
    return path


def _lines(report: ModelReport) -> Iterator[str]:
    yield f"{report.path}: {report.kind}, {show_bytes(report.size_bytes)} in {report.files} files"
    for name, value in report.provenance.items():
        yield from _wrapped(name.replace("_", " "), str(value))
    yield ""
    yield from _model(report)
    yield ""
    of = "variants" if report.kind == "bundle" else "exports would be about"
    yield f"{of}, at a context of {report.context_tokens} tokens with a picture of {report.picture_tokens}"
    yield from _table(
        ["", "files", "weights", "cache", "scratch", "in all", "cache a token"],
        [[name, *_sizes(variant)] for name, variant in report.variants.items()],
    )
    for name, variant in report.variants.items():
        if variant.prepacked is not None:
            yield from _wrapped(
                f"{name} is prepacked",
                f"its weights are mapped from this machine's cache ({show_bytes(variant.prepacked.size_bytes)}) and "
                f"shared by processes; loading takes {show_bytes(variant.prepacked.load_bytes)} for a moment"
                + ("; its decoder runs on kernels of neo_edge's own" if variant.prepacked.kernels else ""),
            )
    if report.calibrations:
        yield ""
        yield "calibrations"
        yield from _table(
            ["", "samples", "through", "clipping", "of"],
            [
                [name, str(found.samples), found.variant, found.method, found.source]
                for name, found in report.calibrations.items()
            ],
        )
    for name, variant in report.variants.items():
        if variant.reservation:
            yield ""
            yield f"warning: the variant {name}: {variant.reservation}"
    checked = {name: _worst(variant.quality) for name, variant in report.variants.items()}
    if any(checked.values()):
        yield ""
        yield "worst difference from the reference (allowed), measured at export"
        yield from _table(["", "", ""], [[name, *worst] for name, worst in checked.items() if worst])
    yield from _precision(report)
    yield from engine_lines(report.engines)


def _model(report: ModelReport) -> Iterator[str]:
    decoder, vision = report.model.decoder, report.model.vision
    tied = "tied to" if decoder.tie_word_embeddings else "apart from"
    ids = ", ".join(f"{name} {_shown(value)}" for name, value in report.special_tokens.items())
    rows = {
        "parameters": f"{report.parameters:,}",
        "decoder": f"{decoder.num_layers} layers, hidden {decoder.hidden_size}, mlp {decoder.intermediate_size}",
        "attention": f"{decoder.num_heads} query and {decoder.num_kv_heads} key/value heads of {decoder.head_dim}; "
        f"rope {decoder.rope_theta:g} (T), {decoder.rope_theta_hw:g} (H, W)",
        "vocabulary": f"{decoder.vocab_size}, the head {tied} the embedding",
        "positions": f"{decoder.max_positions}; a picture takes one",
        "vision": f"{vision.patch_size}-pixel patches, {vision.merge_size}x{vision.merge_size} a token, width "
        f"{vision.hidden_size}, rope {vision.rope_theta:g}",
        "pictures": f"{vision.min_pixels} to {vision.max_pixels} pixels",
        "tokens": ids or "unknown: it takes text ids only",
        "tokenizer": "yes" if report.tokenizer else "none: prompts must be token ids",
    }
    if report.tensor_types:
        rows["stored as"] = ", ".join(f"{count} {kind}" for kind, count in report.tensor_types.items())
    for name, value in rows.items():
        yield from _wrapped(name, value)


def _sizes(variant: VariantReport) -> list[str]:
    memory = variant.memory
    parts = (variant.size_bytes, memory.weights, memory.kv_cache, memory.scratch, memory.total)
    return [*map(show_bytes, parts), show_bytes(memory.kv_cache_per_token)]


def _worst(quality: Mapping[str, object]) -> list[str]:
    """What an export's own verification found nearest to its limit; other measurements are in --json."""
    verification = quality.get("verification")
    checks = verification.get("checks") if isinstance(verification, Mapping) else None
    if not isinstance(checks, Mapping):
        return []
    found = [
        (float(check["largest"]) / float(check["allowed"]), name, check)
        for name, check in checks.items()
        if isinstance(check, Mapping) and check.get("allowed")
    ]
    if not found:
        return []
    _, name, check = max(found, key=lambda row: row[0])
    return [str(name), f"{float(check['largest']):.2e} ({float(check['allowed']):.2e})"]


def engine_lines(engines: Mapping[str, EngineReport]) -> Iterator[str]:
    """TensorRT engines, one block each."""
    for name, engine in engines.items():
        key, limits = engine.key, engine.key.limits
        yield ""
        yield f"engines/{name}" + (
            ": stale, since its variant has changed; not loaded" if engine.stale else ""
        )
        yield from _wrapped(
            "of",
            f"{key.variant}, for {key.backend} {key.version} and compute capability "
            f"{key.compute_capability}" + (f", timed under driver {key.driver}" if key.driver else ""),
        )
        yield from _wrapped(
            "up to",
            f"{limits.max_context} tokens of context, {limits.max_chunk} of a prefill or a "
            f"picture, {limits.max_batch} sequences",
        )
        yield from _wrapped(
            "memory",
            f"plans {show_bytes(engine.plan_bytes)}, caches {show_bytes(engine.cache_bytes)} "
            "when full; scratch is known only to the GPU",
        )
        for part, plan in engine.plans.items():
            yield from _wrapped(part, _plan_text(plan))


def _plan_text(plan: PlanReport) -> str:
    products = ", ".join(f"{count} {kind}" for kind, count in plan.matrix_products.items())
    types = ", ".join(f"{count} {kind}" for kind, count in plan.output_types.items())
    attention = {
        "one operator": "attention as one operator; ",
        "plain operators": "attention in plain operators, which TensorRT may fuse; ",
        "none": "",
    }[plan.attention]
    fused = (
        "the network's layers, not the engine's: no GPU was there to ask"
        if plan.engine_layers is None
        else f"{plan.engine_layers} layers in the engine"
    )
    return (
        f"{show_bytes(plan.plan_bytes)}; {plan.layers} layers ({types}); matrix products {products}, "
        f"{plan.int8_products} of them in INT8; {attention}{fused}"
    )


def _precision(report: ModelReport) -> Iterator[str]:
    exceptions: dict[str, Mapping[str, object]] = {
        name: variant.layer_precision for name, variant in report.variants.items()
    }
    exceptions[report.kind] = report.layer_precision
    for name, layers in exceptions.items():
        if layers:
            yield ""
            yield f"other precisions in {name} (* stands for every layer)"
            yield from (f"  {layer}  {kind}" for layer, kind in layers.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [head, *rows] if any(head) else rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        yield "  " + "  ".join(cells)


def _wrapped(name: str, value: str) -> list[str]:
    return textwrap.wrap(
        value, _COLUMNS, initial_indent=f"  {name:19} ", subsequent_indent=" " * 22, break_on_hyphens=False
    )


def _shown(value: int | tuple[int, ...] | None) -> str:
    if value is None or value == ():
        return "unknown"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
