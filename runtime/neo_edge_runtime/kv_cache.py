"""Key and value caches in host memory, and how their capacity grows."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import MemoryBudgetError

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import DecoderConfig

BLOCK = 64  # tokens; capacities are multiples of it
# The part of what is filled that is free: attention's cost follows the capacity, and each growth copies what is there.
_ROOM = 8


def capacity_for(length: int, capacity: int, limit: int | None = None) -> int:
    """The capacity that holds `length` tokens, given the present one.

    There is room for an eighth more, and for a block at least.

    Args:
        length: tokens that must fit.
        capacity: positions there are; 0 for none yet.
        limit: most tokens that the sequence may ever hold (at least `length`); capacity above it is useless.
    """
    if length <= capacity:
        return capacity
    wanted = -(-(length + max(BLOCK, length // _ROOM)) // BLOCK) * BLOCK
    return wanted if limit is None else max(length, min(wanted, limit))


def cache_bytes(config: DecoderConfig, *, batch: int, capacity: int, element_bytes: int) -> int:
    """Bytes of all layers' caches: kv_heads x (2d + d) numbers a token and layer."""
    per_token = config.num_layers * config.num_kv_heads * (config.key_dim + config.head_dim)
    return batch * capacity * per_token * element_bytes


class HostCache:
    """One key and one value array a layer, [B, kv_heads, C, 2d] and [B, kv_heads, C, d]; zeros at first."""

    def __init__(
        self, config: DecoderConfig, *, batch: int, capacity: int, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self._config = config
        self.batch, self.capacity, self.dtype = batch, capacity, np.dtype(dtype)
        layers = range(config.num_layers)
        self.keys = [self._zeros(config.key_dim) for _ in layers]
        self.values = [self._zeros(config.head_dim) for _ in layers]

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Moves into larger arrays layer by layer, so that only one layer exists twice at a time.

        Args:
            capacity: the new C.
            length: positions of each row that stay.
            rows: how many sequences stay, the first ones; None: all.
        """
        before = self.batch, self.capacity
        self.batch, self.capacity = self.batch if rows is None else rows, capacity
        try:
            # Pages that nobody has written yet cost nothing, so all layers' can be had before any is moved.
            new = [[self._zeros(old.shape[-1]) for old in arrays] for arrays in (self.keys, self.values)]
        except MemoryBudgetError:
            self.batch, self.capacity = before
            raise
        for arrays, larger in zip((self.keys, self.values), new, strict=True):
            for layer, target in enumerate(larger):
                target[:, :, :length] = arrays[layer][: self.batch, :, :length]
                arrays[layer] = target

    def copy(self, *, length: int, capacity: int) -> HostCache:
        """Another cache with the first `length` positions of this one."""
        other = HostCache(self._config, batch=self.batch, capacity=capacity, dtype=self.dtype)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for source, target in zip(mine, theirs, strict=True):
                target[:, :, :length] = source[:, :, :length]
        return other

    def copy_row(self, row: int, source: HostCache, source_row: int, *, length: int) -> None:
        """Makes the first `length` positions of a row those of another row, here or in another cache."""
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for target, layer in zip(mine, theirs, strict=True):
                target[row, :, :length] = layer[source_row, :, :length]

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions of every row over others; no position is both a source and a target."""
        for array in (*self.keys, *self.values):
            array[:, :, targets] = array[:, :, sources]

    def shift_t(self, steps: int, *, length: int) -> None:
        """Turns the T part of the first `length` keys by `steps`."""
        for array in self.keys:
            turn_t(array, self._config, steps, length=length)

    def clear(self) -> None:
        """Drops the arrays."""
        self.keys, self.values, self.capacity = [], [], 0

    def _zeros(self, width: int) -> npt.NDArray[np.generic]:
        shape = (self.batch, self._config.num_kv_heads, self.capacity, width)
        return _mapped_zeros(shape, self.dtype)


def turn_t(keys: npt.NDArray[np.generic], config: DecoderConfig, steps: int, *, length: int) -> None:
    """Turns the T part of the first `length` keys of one layer by `steps`, one head at a time.

    T is the first d numbers of a key, as pairs (2i, 2i + 1): the lowered column order.

    Args:
        keys: [B, kv_heads, C, 2d], changed in place.
        config: of the model.
        steps: by which t grows.
        length: positions that turn.
    """
    turn = t_turns(config, steps)
    for row, head in np.ndindex(keys.shape[:2]):
        part = keys[row, head, :length, : config.head_dim]
        pairs = part.astype(np.float32).view(np.complex64)
        pairs *= turn
        part[...] = pairs.view(np.float32)


def t_turns(config: DecoderConfig, steps: int) -> npt.NDArray[np.complex64]:
    """[d / 2]: what pairs of the T part are multiplied with when t grows by `steps`."""
    angle = steps * t_frequencies(config).astype(np.float64)
    return (np.cos(angle) + 1j * np.sin(angle)).astype(np.complex64)


def t_frequencies(config: DecoderConfig) -> npt.NDArray[np.float32]:
    """[d / 2]: theta ** (-2i / d), rounded as the graph's own."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies: npt.NDArray[np.float32] = np.float32(1) / np.float32(config.rope_theta) ** exponent
    return frequencies


def _mapped_zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Zeros in pages of their own: a page costs nothing until it is written, and goes back when the array goes.

    From the C heap, memory of this size often stays with the process.
    """
    size = max(1, math.prod(shape) * dtype.itemsize)
    try:
        pages = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryBudgetError(
            f"the system refused {size / 2**20:.1f} MiB for one layer's cache ({error}): close sessions or free memory"
        ) from error
    return np.frombuffer(pages, dtype, count=math.prod(shape)).reshape(shape)
