"""`neo-edge verify`: compares every file of a bundle with its digest."""

from __future__ import annotations

import argparse
import json

from neo_edge.bundle import find_faults, read_bundle
from neo_edge.progress import progress


class VerifyCommand:
    """The verb `verify`."""

    summary = "check every file of a bundle against the digests in its manifest"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the bundle and the form of the report."""
        parser.add_argument("bundle", metavar="BUNDLE", help="directory that holds bundle.json")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Prints what is wrong; 0 when nothing is, else 1."""
        bundle = read_bundle(args.bundle)
        manifest = bundle.manifest
        size_bytes = sum(entry.size_bytes for entry in manifest.files.values())
        with progress(size_bytes, "hashing", "B") as bar:
            faults = find_faults(bundle, sha256=True, on_bytes=bar.update)
        if args.json:
            report = {
                "bundle": str(bundle.root),
                "ok": not faults,
                "files": len(manifest.files),
                "size_bytes": size_bytes,
                "variants": sorted(manifest.variants),
                "tokenizer": manifest.tokenizer,
                "faults": faults,
            }
            print(json.dumps(report, indent=2))
            return 1 if faults else 0
        for fault in faults:
            print(fault)
        if not manifest.tokenizer:
            print("no tokenizer: prompts must be token ids")
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        verdict = f"damaged, {count}: copy or export it again" if faults else "whole"
        print(
            f"{bundle.root}: {len(manifest.files)} files, {size_bytes / 1e6:.1f} MB, "
            f"variants {', '.join(manifest.variants)}: {verdict}"
        )
        return 1 if faults else 0


verify_command = VerifyCommand()
