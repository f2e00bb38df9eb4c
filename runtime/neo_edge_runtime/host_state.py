"""Caches of B sequences in host memory, without what reads and fills them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from neo_edge_runtime.kv_cache import HostCache

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from neo_edge_runtime.backend import DecoderState


class HostState(ABC):
    """All of a `SlidingState` but the runs and the copies of itself."""

    def __init__(self, cache: HostCache) -> None:
        self._cache = cache

    @property
    def capacity(self) -> int:
        """C: cache positions that exist."""
        return self._cache.capacity

    @property
    def cache(self) -> HostCache:
        """The caches themselves."""
        return self._cache

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Makes room; the first `length` positions of the first `rows` are copied, layer by layer."""
        self._unbind()
        self._cache.grow(capacity, length=length, rows=rows)

    def copy_row(self, row: int, source: DecoderState, source_row: int, *, length: int) -> None:
        """Copies the filled part of one row; nothing is bound anew."""
        assert isinstance(source, HostState)
        self._cache.copy_row(row, source.cache, source_row, length=length)

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions over others; nothing is bound anew."""
        self._cache.move(sources, targets)

    def shift_t(self, steps: int, *, length: int) -> None:
        """Turns the keys' T part in place."""
        self._cache.shift_t(steps, length=length)

    def close(self) -> None:
        """Drops the caches and all that is bound to them."""
        self._unbind()
        self._cache.clear()

    @abstractmethod
    def _unbind(self) -> None:
        """Forgets addresses of the caches: they are about to become others."""
