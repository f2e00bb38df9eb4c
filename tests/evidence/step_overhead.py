"""What Python adds to a decode step: the time between one run of the decoder graph and the next.

The decoder's session is wrapped in one that notes when each run begins and ends; the gaps are all that the
runtime does beside it: logits checked and copied, the token chosen, its text decoded, the next inputs written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from command_line import neo_edge

from neo_edge.bundle import open_bundle
from neo_edge.options import SamplingOptions
from neo_edge.tokenizer import load_tokenizer
from neo_edge_runtime.bench.device import describe_device
from neo_edge_runtime.generation import Stream
from neo_edge_runtime.model import Model
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.processors import usable_physical_cores

PROMPT_TOKENS, STEPS, ANSWERS = 64, 128, 20
ALLOWED_US = 150.0
CHECKPOINT = "neo-ov-nano"
SAMPLINGS = {
    "greedy": SamplingOptions(max_new_tokens=STEPS),
    "temperature 0.7, top-p 0.9": SamplingOptions(max_new_tokens=STEPS, temperature=0.7, top_p=0.9, seed=1),
}


class TimedSession:
    """An ONNX Runtime session that notes when its runs begin and end; everything else is passed on."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.began: list[float] = []
        self.ended: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.began.append(time.perf_counter())
        self._session.run_with_iobinding(binding, options)
        self.ended.append(time.perf_counter())


def main() -> int:
    """Prints the gaps; 1 when a median is above the allowance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=usable_physical_cores())
    args = parser.parse_args()
    describe_device(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "nano.bundle"
        neo_edge("export", CHECKPOINT, "-o", bundle)
        medians = _measure(bundle, args.threads)
    return 0 if max(medians.values()) <= ALLOWED_US else 1


def _measure(path: Path, threads: int) -> dict[str, float]:
    bundle = open_bundle(path)
    backend = OrtBackend(bundle, "fp32", threads=threads)
    assert backend._decoder is not None
    session = TimedSession(backend._decoder.session)
    backend._decoder = replace(backend._decoder, session=session)
    tokenizer = load_tokenizer(bundle.root) if bundle.manifest.tokenizer else None
    medians = {}
    with Model(backend, tokens=bundle.manifest.special_tokens, tokenizer=tokenizer) as model:
        print(
            f"\n{STEPS} steps behind {PROMPT_TOKENS} tokens, {ANSWERS} answers; text decoded: {tokenizer is not None}"
        )
        for name, options in SAMPLINGS.items():
            gaps, runs = _answers(model, session, options)
            medians[name] = float(np.median(gaps))
            low, high = np.percentile(gaps, [5, 95])
            print(
                f"  {name:28} Python {medians[name]:6.1f} us a step (5 % to 95 %: {low:.1f} to {high:.1f}), "
                f"session run {np.median(runs):.0f} us"
            )
    print(f"  allowed, each: {ALLOWED_US:.0f} us")
    return medians


def _answers(model: Model, session: TimedSession, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds between runs and of runs, of all decode steps; the first answer warms up."""
    gaps: list[float] = []
    runs: list[float] = []
    for number in range(ANSWERS + 1):
        session.began.clear()
        session.ended.clear()
        asked = model.stream(list(range(10, 10 + PROMPT_TOKENS)), options=options)
        # Without an end token every answer has all its steps.
        for _ in Stream(replace(asked.request, eos=()), lambda *_: None):
            pass
        asked.request.session.close()
        began, ended = np.array(session.began), np.array(session.ended)
        if number:
            # The prefill ran first; the first decode step binds the inputs, which later ones only mutate.
            gaps += ((began[2:] - ended[1:-1]) * 1e6).tolist()
            runs += ((ended - began)[2:] * 1e6).tolist()
    return np.array(gaps), np.array(runs)


if __name__ == "__main__":
    sys.exit(main())
