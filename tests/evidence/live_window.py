"""What sliding a full window costs in host memory, at 2B's widths.

Caches of a few of 2B's layers hold 64 frames of 640x360 pixels, and all is stated for its 40 layers. Eight frames are
dropped by moving what stands last over them, as live sessions do, or by shifting all that stays. Positions are moved by
turning the T part of all keys. Copying the cache is the measure. None of this runs the decoder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from neo_edge.checkpoint_presets import preset_config
from neo_edge.config import load_config
from neo_edge_runtime.kv_cache import HostCache

MODEL_LAYERS = 40
FRAMES, FRAME_TOKENS, DROPPED = 64, 225 + 14, 8  # visual tokens and a timestamp; an eighth goes at once


def main() -> int:
    """Prints the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4, help="held in memory (default 4: 0.7 GiB)")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(preset_config("2b", layers=args.layers)))
        decoder = load_config(folder).decoder
    tokens = FRAMES * FRAME_TOKENS
    cache = HostCache(decoder, batch=1, capacity=tokens)
    arrays = [*cache.keys, *cache.values]
    copies = [np.ones_like(array) for array in arrays]
    for array in arrays:
        array[...] = 1.0
    dropped = np.arange(DROPPED * FRAME_TOKENS)
    last = np.arange(tokens - len(dropped), tokens)
    costs: dict[str, Callable[[], object]] = {
        f"{DROPPED} frames dropped, the last ones moved over them": lambda: cache.move(last, dropped),
        f"{DROPPED} frames dropped, all that stays shifted": lambda: _shift(cache, len(dropped), tokens),
        "positions moved: all keys turned": lambda: cache.shift_t(-1, length=tokens),
        "the whole cache copied": lambda: [
            np.copyto(to, array) for to, array in zip(copies, arrays, strict=True)
        ],
    }
    print(f"{tokens} tokens of {FRAMES} frames, float32, {args.layers} layers, stated for {MODEL_LAYERS}")
    for name, work in costs.items():
        print(
            f"  {name:48} {1e3 * MODEL_LAYERS / args.layers * _seconds(work, args.repeats):8.0f} ms",
            flush=True,
        )
    return 0


def _shift(cache: HostCache, by: int, tokens: int) -> None:
    for array in (*cache.keys, *cache.values):
        for head in array[0]:
            head[: tokens - by] = head[by:tokens]  # numpy sees that they overlap


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The median, behind one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    sys.exit(main())
