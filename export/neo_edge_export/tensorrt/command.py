"""`neo-edge build`: arguments and printing; the work is in `engine_builder.py`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from neo_edge.byte_size import show_bytes
from neo_edge.engines import BACKENDS
from neo_edge_runtime.commands.model_arguments import add_bundle_argument, byte_count, count

if TYPE_CHECKING:
    from neo_edge_export.tensorrt.engine_builder import BuildResult

_EXAMPLES = """\
examples:
  neo-edge build robot.bundle --backend tensorrt
  neo-edge build robot.bundle --backend tensorrt-rtx --compute-capability 86

Engines serve one variant, one TensorRT, one GPU and these limits, and are found
again while all of that is the same. TensorRT builds on the GPU that they are
for; TensorRT-RTX ahead of time, for GPUs that are not there. Both build the
variants with portable operators (export --ops portable).
"""


class BuildCommand:
    """Builds TensorRT engines into a bundle."""

    summary = "build a bundle's graphs into TensorRT engines"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        add_bundle_argument(parser)
        parser.add_argument("--backend", required=True, choices=BACKENDS, help="which TensorRT")
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--variant", metavar="V", help="variant to build (default: the one of the precision)"
        )
        which.add_argument(
            "--precision", choices=("fp16", "int8", "int4"), default="fp16", help="default: fp16"
        )
        limits = parser.add_argument_group("limits", "larger ones take more memory on the GPU")
        limits.add_argument(
            "--max-context",
            type=count,
            default=4096,
            metavar="N",
            help="tokens of a conversation (default 4096)",
        )
        limits.add_argument(
            "--max-chunk",
            type=count,
            metavar="N",
            help="tokens of one prefill, and visual tokens of the largest picture (default 1024)",
        )
        limits.add_argument(
            "--max-batch", type=count, default=1, metavar="N", help="sequences at once (default 1)"
        )
        device = parser.add_argument_group("device")
        device.add_argument(
            "--compute-capability", metavar="SM", help="such as 86 (default: that of the GPU in this machine)"
        )
        device.add_argument(
            "--device-memory",
            type=byte_count,
            metavar="SIZE",
            help="of the GPU, such as 8GiB; engines that need more are refused (default: what the GPU here has)",
        )
        device.add_argument(
            "--workspace",
            type=byte_count,
            metavar="SIZE",
            help="most scratch memory of one layer, and a fused graph is one (default: no limit)",
        )
        parser.add_argument("--overwrite", action="store_true", help="build engines anew that are there")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Builds, and prints what was built."""
        from neo_edge_export.tensorrt.engine_builder import BuildRequest, build_engines

        result = build_engines(
            args.bundle,
            BuildRequest(
                backend=args.backend,
                variant=args.variant,
                precision=args.precision,
                max_context=args.max_context,
                max_chunk=args.max_chunk,
                max_batch=args.max_batch,
                compute_capability=args.compute_capability,
                workspace_bytes=args.workspace,
                device_memory_bytes=args.device_memory,
                overwrite=args.overwrite,
            ),
        )
        if args.json:
            print(json.dumps(_to_json(result), indent=2))
        else:
            _print(result)
        return 0


build_command = BuildCommand()


def _to_json(result: BuildResult) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "folder": f"engines/{result.name}",
        "built": result.built,
        "why": result.why,
        "ops": result.bundle.variant(result.engines.key.variant).ops,
        "why_ops": result.why_ops,
        "build_s": round(result.build_s, 3),
        "removed": list(result.removed),
        "engines": asdict(result.engines),
        "plan_bytes": _plan_bytes(result),
        "estimate_bytes": result.estimate.to_json(),
    }


def _print(result: BuildResult) -> None:
    key, limits = result.engines.key, result.engines.key.limits
    did = f"built in {result.build_s:.1f} s: {result.why}" if result.built else "there already"
    print(f"{result.bundle.root}/engines/{result.name}: {did}")
    sizes = ", ".join(f"{part} {show_bytes(size)}" for part, size in _plan_bytes(result).items())
    rows = {
        "engines": sizes,
        "operators": f"{result.bundle.variant(key.variant).ops}: {result.why_ops}",
        "of": f"variant {key.variant}, {key.backend} {key.version}, compute capability {key.compute_capability}",
        "take up to": f"{limits.max_context} tokens of context, {limits.max_chunk} of a prefill or a picture, "
        f"{limits.max_batch} sequences",
        "need about": f"{show_bytes(result.estimate.device_total)}: {result.estimate}",
    }
    for name, value in rows.items():
        print(f"  {name:11} {value}")
    for name in result.removed:
        print(f"  removed     engines/{name}, which served nothing any more")


def _plan_bytes(result: BuildResult) -> dict[str, int]:
    files = result.bundle.manifest.files
    return {
        "vision": files[result.engines.vision].size_bytes,
        "decoder": files[result.engines.decoder].size_bytes,
    }
