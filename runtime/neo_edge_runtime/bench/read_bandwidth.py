"""How fast this machine reads memory, which is what decoding is held to: a step reads every weight once.

Each reader goes through a buffer far larger than the caches, once, from front to back, with as many threads as
the decoder; the fastest is the measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from neo_edge_runtime.bench.timing import Seconds
from neo_edge_runtime.memory import available_memory_bytes

BUFFER_BYTES = 2 << 30
_LEAST_BYTES = 256 << 20  # eight times a large last-level cache

Readers = Mapping[str, Callable[[], object]]


def buffer_bytes() -> int:
    """`BUFFER_BYTES`, or a quarter of the free memory where that is less."""
    free = available_memory_bytes()
    size = BUFFER_BYTES if free is None else min(BUFFER_BYTES, free // 4)
    return max(_LEAST_BYTES, size // _LEAST_BYTES * _LEAST_BYTES)


class ReadBuffer:
    """A buffer of random float32 and numpy's ways to read it; other libraries' readers may share it."""

    def __init__(self, threads: int, size_bytes: int | None = None) -> None:
        """`size_bytes` None: `buffer_bytes()`."""
        self.size_bytes = buffer_bytes() if size_bytes is None else size_bytes
        self.values = np.empty(self.size_bytes // 4, np.float32)
        _fill(self.values)
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._parts = np.array_split(self.values, threads)

    @property
    def readers(self) -> Readers:
        """By name."""
        return {
            "numpy max, one thread a part": lambda: self._in_threads(np.max),
            "numpy dot (OpenBLAS), one thread a part": lambda: self._in_threads(_dot_itself),
        }

    def bandwidth(self, seconds: Mapping[str, Seconds]) -> dict[str, Seconds]:
        """Bytes a second of each reader, fastest (by its median) first; `seconds` may hold other contenders, too."""
        rates = {name: self.size_bytes / values for name, values in seconds.items()}
        return dict(sorted(rates.items(), key=lambda rate: -float(np.median(rate[1]))))

    def _in_threads(self, read: Callable[[npt.NDArray[np.float32]], object]) -> None:
        list(self._pool.map(read, self._parts))


def _dot_itself(part: npt.NDArray[np.float32]) -> object:
    return np.dot(part, part)


def _fill(values: npt.NDArray[np.float32]) -> None:
    """Random numbers in -1..1, a block at a time: no page may be the shared page of zeros."""
    rng = np.random.default_rng(0)
    block = 1 << 22
    for start in range(0, len(values), block):
        part = values[start : start + block]
        rng.random(out=part, dtype=np.float32)
        part *= 2
        part -= 1
