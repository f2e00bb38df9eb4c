"""Prompts answered together against the same prompts alone: every logit of random mixes of text and pictures.

Exports the tiny golden checkpoint in both profiles. A mix is two to six prompts with up to three pictures each. They
are prefilled in one run, padded, and decoded from there; and they are decoded in a `BatchSession` of fewer rows, which
prompts join and leave while others go on. All tokens are given, so that no choice can hide or make a difference.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from command_line import neo_edge

from neo_edge.bundle import open_bundle
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge_runtime.ort_backend import OrtBackend

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
from batch_mixes import Differences, mix_differences

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
VARIANTS = ("fp32", "fp32-portable")
ALLOWED = 1e-4


def main() -> int:
    """Prints the worst differences; 1 when one is above the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.bundle"
        neo_edge("export", GOLDEN, "-o", path, "--ops", "modern", "--ops", "portable")
        bundle = open_bundle(path)
        tokens = resolve_special_tokens(None, bundle.manifest.model)
        passed = True
        for variant in VARIANTS:
            backend = OrtBackend(bundle, variant, threads=args.threads)
            passed &= _print_worst(
                variant, [mix_differences(backend, tokens, seed) for seed in range(args.mixes)]
            )
            backend.close()
    return 0 if passed else 1


def _print_worst(variant: str, mixes: list[Differences]) -> bool:
    worst = max(mix.worst for mix in mixes)
    prompts, images = sum(mix.prompts for mix in mixes), sum(mix.images for mix in mixes)
    print(
        f"\n{variant}: {len(mixes)} mixes (seeds 0 to {len(mixes) - 1}), {prompts} prompts, {images} pictures"
    )
    for of, found in (
        ("prefill, every position, all prompts in one run", max(mix.padded_prefill for mix in mixes)),
        ("decoding behind it", max(mix.padded_decode for mix in mixes)),
        ("decoding in rows that prompts join and leave", max(mix.decode for mix in mixes)),
    ):
        print(f"  {of:50} {found:.2e}")
    print(
        f"  {'worst':50} {worst:.2e}, allowed {ALLOWED:.0e}{'' if worst <= ALLOWED else ': MISSED'}",
        flush=True,
    )
    return worst <= ALLOWED


if __name__ == "__main__":
    sys.exit(main())
