"""Device memory of a run: input arrays that travel in one copy, and buffers that are kept from run to run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from neo_edge_runtime.tensorrt.device import Device, PinnedMemory, Tensor

if TYPE_CHECKING:
    import numpy.typing as npt


_ALIGNMENT = 256  # bytes; of addresses that TensorRT takes


class Buffers:
    """Named pieces of memory that grow as they are needed, and stay until they are released."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._device_memory: dict[str, tuple[int, int]] = {}  # address, size
        self._pinned: dict[str, PinnedMemory] = {}

    @property
    def device_bytes(self) -> int:
        """What is kept on the device now."""
        return sum(size for _, size in self._device_memory.values())

    def tensor(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Tensor:
        """Device memory of that name, of any content; what had the name before is gone when it was smaller."""
        needed = math.prod(shape) * dtype.itemsize
        address, size = self._device_memory.get(name, (0, 0))
        if needed > size or address == 0:
            if address:
                del self._device_memory[name]
                self._device.free(address)
            address = self._device.allocate(needed, name.replace("_", " "))
            self._device_memory[name] = address, max(1, needed)
        return Tensor(address, shape, dtype)

    def pinned(self, name: str, size_bytes: int) -> PinnedMemory:
        """Page-locked host memory of that name and at least that size."""
        found = self._pinned.get(name)
        if found is None or len(found.array) < size_bytes:
            if found is not None:
                del self._pinned[name]
                self._device.free_pinned(found)
            found = self._pinned[name] = self._device.allocate_pinned(size_bytes)
        return found

    def release(self) -> None:
        """Gives all of it back."""
        memory, self._device_memory = self._device_memory, {}
        pinned, self._pinned = self._pinned, {}
        for address, _ in memory.values():
            self._device.free(address)
        for block in pinned.values():
            self._device.free_pinned(block)


class PackedArrays:
    """Host arrays behind each other in pinned memory and the same on the device: one copy moves all."""

    def __init__(
        self,
        device: Device,
        buffers: Buffers,
        name: str,
        arrays: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]],
    ) -> None:
        """Takes memory for arrays of these shapes and types."""
        self._device = device
        offsets, end = {}, 0
        for key, (shape, dtype) in arrays.items():
            offsets[key] = end
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._size = end
        self._host = buffers.pinned(name, end)
        self._block = buffers.tensor(name, (end,), np.dtype(np.uint8))
        self.host = {
            key: self._host.array[offsets[key] : offsets[key] + math.prod(shape) * np.dtype(dtype).itemsize]
            .view(dtype)
            .reshape(shape)
            for key, (shape, dtype) in arrays.items()
        }
        self.tensors = {
            key: Tensor(self._block.address + offsets[key], shape, np.dtype(dtype))
            for key, (shape, dtype) in arrays.items()
        }

    def upload(self) -> None:
        """Queues the copy to the device; what stands in the host's arrays when it runs is what arrives."""
        self._device.copy(self._block.address, self._host.address, self._size)

    def download(self) -> None:
        """Queues the copy back."""
        self._device.copy(self._host.address, self._block.address, self._size)
