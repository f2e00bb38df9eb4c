"""Key and value caches on the device, and how their capacity grows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import BackendError, MemoryBudgetError, SessionClosedError
from neo_edge_runtime.tensorrt.device import Device, Rows, Tensor

if TYPE_CHECKING:
    from neo_edge.config import DecoderConfig


class DeviceCache:
    """One key and one value tensor a layer, [B, kv_heads, C, 2d] and [B, kv_heads, C, d]; zeros at first."""

    def __init__(
        self,
        device: Device,
        config: DecoderConfig,
        *,
        batch: int,
        capacity: int,
        dtype: np.dtype[np.generic],
    ) -> None:
        """Raises `MemoryBudgetError` when the device has no room."""
        self._device, self._config, self._dtype = device, config, dtype
        self.batch, self.capacity = batch, capacity
        self.tensors: dict[str, Tensor] = {}
        try:
            for name in self._names():
                self.tensors[name] = self._zeros(name, batch, capacity)
        except MemoryBudgetError:
            self.clear()
            raise

    def of_first(self, batch: int) -> dict[str, Tensor]:
        """The caches of the first sequences."""
        self._require_open()
        return {
            name: Tensor(tensor.address, (batch, *tensor.shape[1:]), tensor.dtype)
            for name, tensor in self.tensors.items()
        }

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Moves into larger tensors one by one, so that only one exists twice at a time.

        Args:
            capacity: the new C.
            length: positions of each row that stay.
            rows: how many sequences stay, the first ones; None: all.
        """
        self._require_open()
        batch = self.batch if rows is None else rows
        moved = []
        try:
            for name in self.tensors:
                self._move(name, batch, capacity, rows=batch, length=length)
                moved.append(name)
        except MemoryBudgetError:
            self._move_back(moved, rows=batch, length=length)
            raise
        self.batch, self.capacity = batch, capacity

    def copy(self, *, length: int, capacity: int) -> DeviceCache:
        """Another cache with the first `length` positions of this one."""
        self._require_open()
        other = DeviceCache(
            self._device, self._config, batch=self.batch, capacity=capacity, dtype=self._dtype
        )
        for name, tensor in other.tensors.items():
            self._copy(tensor, self.tensors[name], rows=self.batch, length=length)
        return other

    def copy_row(self, row: int, source: DeviceCache, source_row: int, *, length: int) -> None:
        """Makes the first `length` positions of a row those of another row, here or in another cache."""
        self._require_open()
        source._require_open()
        for name, tensor in self.tensors.items():
            self._copy(_row(tensor, row), _row(source.tensors[name], source_row), rows=1, length=length)

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copies positions of every row over others, run by run; no position is both a source and a target."""
        self._require_open()
        for source, target, count in _runs(sources, targets):
            for tensor in self.tensors.values():
                batch, heads, capacity, width = tensor.shape
                token_bytes = width * tensor.dtype.itemsize
                self._device.copy_rows(
                    Rows(tensor.address + target * token_bytes, capacity * token_bytes),
                    Rows(tensor.address + source * token_bytes, capacity * token_bytes),
                    width_bytes=count * token_bytes,
                    rows=batch * heads,
                )

    def turn_t(self, turns: Tensor, *, length: int) -> None:
        """Turns the T part of the first `length` keys of all layers; raises `BackendError` without our programs."""
        self._require_open()
        if self._device.kernels is None:
            raise BackendError(
                "keys are turned by a program that NVRTC compiles, and NVRTC is not there: install nvidia-cuda-nvrtc "
                'or the CUDA toolkit, or watch with policy="recompute"'
            )
        for name, tensor in self.tensors.items():
            if name.startswith("key"):
                self._device.kernels.turn(tensor, turns, length=length)

    def append(self, row: int, start: int, new: dict[str, Tensor]) -> None:
        """Copies new keys and values [B, kv_heads, S, width] of one row to its positions from `start` on."""
        for name, tensor in self.tensors.items():
            source = _row(new[name], row)
            token_bytes = source.shape[3] * source.dtype.itemsize
            self._device.copy_rows(
                Rows(_row(tensor, row).address + start * token_bytes, self.capacity * token_bytes),
                Rows(source.address, source.shape[2] * token_bytes),
                width_bytes=source.shape[2] * token_bytes,
                rows=source.shape[1],
            )

    def clear(self) -> None:
        """Gives the memory back; may be called twice."""
        tensors, self.tensors, self.capacity = self.tensors, {}, 0
        for tensor in tensors.values():
            self._device.free(tensor.address)

    def _move(self, name: str, batch: int, capacity: int, *, rows: int, length: int) -> None:
        old, new = self.tensors[name], self._zeros(name, batch, capacity)
        self._copy(new, old, rows=rows, length=length)
        self.tensors[name] = new
        self._device.free(old.address)

    def _move_back(self, moved: list[str], *, rows: int, length: int) -> None:
        """Into what was just given back; where even that is gone, no cache is left that a run could use."""
        try:
            for name in reversed(moved):
                self._move(name, self.batch, self.capacity, rows=rows, length=length)
        except MemoryBudgetError:
            self.clear()

    def _copy(self, target: Tensor, source: Tensor, *, rows: int, length: int) -> None:
        """The first positions of the first rows; the capacities may differ."""
        _, heads, capacity, width = target.shape
        token_bytes = width * target.dtype.itemsize
        if length:
            self._device.copy_rows(
                Rows(target.address, capacity * token_bytes),
                Rows(source.address, source.shape[2] * token_bytes),
                width_bytes=length * token_bytes,
                rows=rows * heads,
            )

    def _zeros(self, name: str, batch: int, capacity: int) -> Tensor:
        width = self._config.key_dim if name.startswith("key") else self._config.head_dim
        shape = (batch, self._config.num_kv_heads, capacity, width)
        size = math.prod(shape) * self._dtype.itemsize
        address = self._device.allocate(size, "one layer's cache")
        self._device.zero(address, size)
        return Tensor(address, shape, self._dtype)

    def _names(self) -> Iterator[str]:
        for layer in range(self._config.num_layers):
            yield f"key_cache.{layer}"
            yield f"value_cache.{layer}"

    def _require_open(self) -> None:
        if not self.tensors:
            raise SessionClosedError("the session's caches are gone: open a new session")


def _row(tensor: Tensor, row: int) -> Tensor:
    shape = (1, *tensor.shape[1:])
    return Tensor(tensor.address + row * (tensor.nbytes // tensor.shape[0]), shape, tensor.dtype)


def _runs(sources: list[int], targets: list[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours that stay neighbours: first source, first target, how many."""
    begin = 0
    for end in range(1, len(sources) + 1):
        follows = end < len(sources) and (sources[end], targets[end]) == (
            sources[end - 1] + 1,
            targets[end - 1] + 1,
        )
        if not follows:
            yield sources[begin], targets[begin], end - begin
            begin = end
