"""Live sessions against full prefills: every logit of questions in random sequences of frames and questions.

Exports the tiny golden checkpoint, given a tokenizer, in both profiles. Half of the sequences have windows of the
policy `recompute`, most of which overflow; the others are of `drop`, within their window. After each question the same
frames and words go through an empty session at once. All tokens that follow are given, so that no choice can hide a
difference.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from command_line import neo_edge as run_neo_edge

import neo_edge
from neo_edge.protocols import get_protocol

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
from byte_tokenizer import write_byte_tokenizer
from live_sequences import Watched, watch_randomly

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
VARIANTS = ("fp32", "fp32-portable")
ALLOWED = 1e-4


def main() -> int:
    """Prints the worst differences; 1 when one is above the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=200)
    args = parser.parse_args()
    small = replace(get_protocol("edge"), min_pixels=32 * 32)  # the pictures stay as small as they are
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "tiny", Path(folder) / "tiny.bundle"
        checkpoint.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(GOLDEN / name, checkpoint / name)
        write_byte_tokenizer(checkpoint)
        run_neo_edge("export", checkpoint, "-o", bundle, "--ops", "modern", "--ops", "portable")
        for variant in VARIANTS:
            with neo_edge.load(bundle, variant=variant, threads=1, protocol=small) as model:
                passed &= _print_worst(
                    variant, [watch_randomly(model, seed) for seed in range(args.sequences)]
                )
    return 0 if passed else 1


def _print_worst(variant: str, watched: list[Watched]) -> bool:
    worst = max(one.worst for one in watched)
    print(
        f"{variant}: {len(watched)} sequences (seeds 0 to {len(watched) - 1}), {sum(one.frames for one in watched)} "
        f"frames, {sum(one.questions for one in watched)} questions, "
        f"{sum(one.windows_cut for one in watched)} windows cut\n"
        f"  worst logit {worst:.2e} apart, allowed {ALLOWED:.0e}{'' if worst <= ALLOWED else ': MISSED'}",
        flush=True,
    )
    return worst <= ALLOWED


if __name__ == "__main__":
    sys.exit(main())
