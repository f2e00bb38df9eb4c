"""`neo-edge prepack`: puts a variant into this machine's prepacked cache, lists what is there and removes it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.byte_size import show_bytes
from neo_edge.errors import InputError

if TYPE_CHECKING:
    from neo_edge_runtime.prepacked_listing import Listed

_EXAMPLES = """\
examples:
  neo-edge prepack robot.bundle --variant fp32
  neo-edge prepack --list
  neo-edge prepack --clear-stale

Weights lie in the cache as the processor's kernels want them. Models then map
them and keep no copies, and all processes share the pages. ONNX Runtime wants
them as in the bundle, too: twice the size. A quantized decoder gets kernels of
neo_edge's own where a C++ compiler and the package onnx are there and the
processor has AVX-512 VNNI: faster, and once the size. The cache is
$NEO_EDGE_CACHE_DIR, else $XDG_CACHE_HOME/neo_edge, else ~/.cache/neo_edge.
"""


class PrepackCommand:
    """The verb `prepack`."""

    summary = "store a variant as this machine's kernels want it, to be mapped and shared"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares what to build, list or remove."""
        parser.add_argument(
            "bundle", metavar="BUNDLE", type=Path, nargs="?", help="directory that neo-edge export wrote"
        )
        parser.add_argument(
            "--variant", metavar="V", help="default: the first that the installed onnxruntime can run"
        )
        parser.add_argument(
            "--verify", action="store_true", help="compare every byte of what is there with its digest"
        )
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--list", action="store_true", help="show what is there instead")
        instead.add_argument("--clear", action="store_true", help="remove all of it, or that of BUNDLE")
        instead.add_argument(
            "--clear-stale",
            action="store_true",
            help="remove what no bundle, onnxruntime or processor here can use any more, and what is damaged",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.epilog = _EXAMPLES

    def run(self, args: argparse.Namespace) -> int:
        """Builds, lists or removes; 1 when `--list` finds damage."""
        if args.list or args.clear or args.clear_stale:
            if args.variant is not None or (args.bundle is not None and not args.clear):
                raise InputError("--list and --clear-stale take no BUNDLE, and only building takes --variant")
            return _list(args) if args.list else _clear(args)
        if args.bundle is None:
            raise InputError("give the BUNDLE to prepack, or --list, --clear or --clear-stale")
        return _build(args)


prepack_command = PrepackCommand()


def _build(args: argparse.Namespace) -> int:
    from neo_edge.bundle import open_bundle
    from neo_edge_runtime.ort_backend import runnable_variants
    from neo_edge_runtime.ort_memory import weight_bytes
    from neo_edge_runtime.prepacked_build import fill_cache

    bundle = open_bundle(args.bundle)
    variant = args.variant or runnable_variants(bundle)[0]
    started = time.perf_counter()
    filled = fill_cache(bundle, variant, verify=args.verify, quiet=False)
    seconds, entry = time.perf_counter() - started, filled.entry
    weights = weight_bytes(bundle.manifest, bundle.variant(variant))
    if args.json:
        report = {
            "folder": str(entry.folder),
            "variant": variant,
            "built": filled.built,
            "seconds": seconds,
            "bundle_bytes": weights,
            "size_bytes": entry.size_bytes,
            "kernels": entry.kernels,
            "without_kernels": filled.without_kernels,
        }
        print(json.dumps(report, indent=2))
    else:
        what = f"prepacked in {seconds:.1f} s" if filled.built else "is prepacked already"
        print(f"{variant} of {args.bundle} ({show_bytes(weights)}) {what}: {show_bytes(entry.size_bytes)}")
        print(f"in {entry.folder}")
        if entry.kernels:
            print("the decoder runs on kernels of neo_edge's own, compiled for this processor")
        elif filled.without_kernels:
            print(f"the decoder runs on ONNX Runtime's kernels; neo_edge's own: {filled.without_kernels}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from neo_edge_runtime.prepacked import PrepackedCache
    from neo_edge_runtime.prepacked_listing import listing

    cache = PrepackedCache()
    found = listing(cache, verify=args.verify)
    if args.json:
        print(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        total = show_bytes(sum(one.size_bytes for one in found))
        print(f"{cache.folder}: {len(found)} prepacked, {total}")
        for one in found:
            print("\n".join(_lines(one)))
    return 1 if any(one.damage for one in found) else 0


def _lines(one: Listed) -> Iterator[str]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last_used_s)) if one.last_used_s else "unknown"
    yield f"{one.name[:12]}  {show_bytes(one.size_bytes):>8}  last used {used}  {one.variant} of {one.bundle}"
    if one.damage or one.stale:
        yield f"    {one.damage or f'of no use: {one.stale}'}"


def _clear(args: argparse.Namespace) -> int:
    from neo_edge.bundle import open_bundle
    from neo_edge_runtime.prepacked import PrepackedCache
    from neo_edge_runtime.prepacked_listing import clear

    cache = PrepackedCache()
    bundle = None if args.bundle is None else open_bundle(args.bundle)
    gone = clear(cache, bundle=bundle, only_stale=args.clear_stale, verify=args.verify)
    size = sum(one.size_bytes for one in gone)
    if args.json:
        print(json.dumps([one.to_dict() for one in gone], indent=2))
    else:
        print(f"removed {len(gone)} from {cache.folder}: {show_bytes(size)}")
    return 0
