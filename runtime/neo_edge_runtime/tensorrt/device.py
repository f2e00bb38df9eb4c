"""A GPU as the backend sees it: memory by address, one stream, graphs that replay what went into it.

`cuda_device.py` is NVIDIA's; the tests have one in host memory. Everything but allocation is queued on the stream and
done in its order; only `synchronize` waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge_runtime.device_frame import DeviceFrame

Location = Literal["device", "host"]


@dataclass(frozen=True)
class Tensor:
    """Contiguous numbers somewhere."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    location: Location = "device"

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class PinnedMemory:
    """Host memory that the GPU reads and writes by itself."""

    address: int
    array: npt.NDArray[np.uint8]  # a view of all of it


@dataclass(frozen=True)
class Rows:
    """Equal pieces of memory, one every `pitch` bytes."""

    address: int
    pitch: int


class Graph(Protocol):
    """Work that was captured; addresses are part of it, what stands there is read when it runs."""

    def launch(self) -> None:
        """Queues all of it at once."""
        ...

    def close(self) -> None:
        """Gives it back."""
        ...


class Kernels(Protocol):
    """The backend's own programs on the device."""

    def append(
        self,
        table: Tensor,
        write_index: Tensor,
        *,
        tensors: int,
        batch: int,
        heads: int,
        new_tokens: int,
        capacity: int,
    ) -> None:
        """Copies new keys and values into their caches, all layers at once.

        Args:
            table: [tensors, 3] uint64: address of the new numbers [batch, heads, new_tokens, width], address of the
                cache [batch, heads, capacity, width], and the width in 4-byte words.
            write_index: [batch] int32 on the device: cache position of each row's first new token.
            tensors: of the table.
            batch: B.
            heads: kv heads.
            new_tokens: S.
            capacity: C.
        """
        ...

    def likeliest(self, logits: Tensor, found: Tensor) -> None:
        """Arg-max of each row.

        Args:
            logits: [rows, V] float32.
            found: [rows, 2] int32: the first place of the largest logit, and whether all logits are finite.
        """
        ...

    def candidates(
        self, logits: Tensor, temperature: Tensor, tokens: Tensor, values: Tensor, summary: Tensor
    ) -> None:
        """The largest logits of a row, and the sum over all.

        Args:
            logits: [V] float32.
            temperature: [1] float32.
            tokens: [keep] int32, keep at most V: the places, in any order, of the logits that are above the keep-th
                largest; what is left of the array stays as it is.
            values: [keep] float32: those logits.
            summary: [4] float32: how many there are, the keep-th largest logit, the sum of
                exp((logit - largest) / temperature) over all, and whether all logits are finite.
        """
        ...

    def turn(self, keys: Tensor, turns: Tensor, *, length: int) -> None:
        """Turns the T part of the first `length` keys, as `kv_cache.turn_t`.

        Args:
            keys: [B, kv_heads, C, 2d] float16 or float32, changed in place.
            turns: [d / 2, 2] float32: cosine and sine of each pair's angle.
            length: positions that turn.
        """
        ...

    def pack_frame(
        self,
        frame: DeviceFrame,
        columns: Tensor,
        rows: Tensor,
        normalization: Tensor,
        narrowed: Tensor,
        patches: Tensor,
        *,
        patch_size: int,
        merge_size: int,
    ) -> None:
        """Resizes a frame as Pillow does, normalizes it and cuts it into packed patches.

        Args:
            frame: on the device.
            columns: `bicubic_table` of the widths, on the device.
            rows: that of the heights.
            normalization: [2, 3] float32: mean and standard deviation of the channels.
            narrowed: [frame's height, new width, 3] uint8 to work in.
            patches: [P, 3 * patch_size * patch_size] float32.
            patch_size: pixels along a patch.
            merge_size: patches along a visual token.
        """
        ...


class Device(Protocol):
    """One GPU and one stream on it. Calls come from one thread at a time; `activate` goes before them."""

    @property
    def name(self) -> str:
        """As its maker calls it."""
        ...

    @property
    def compute_capability(self) -> str:
        """Digits, such as 87."""
        ...

    @property
    def stream(self) -> int:
        """The stream's handle, for TensorRT."""
        ...

    @property
    def kernels(self) -> Kernels | None:
        """None where they cannot be compiled; everything works without them, with more calls."""
        ...

    def activate(self) -> None:
        """Makes the device the calling thread's."""
        ...

    def free_bytes(self) -> int:
        """Memory that is free on the device now."""
        ...

    def allocate(self, size_bytes: int, purpose: str) -> int:
        """Address of device memory, aligned to 256 bytes; raises `MemoryBudgetError` when there is none."""
        ...

    def free(self, address: int) -> None:
        """Gives device memory back, after what is queued."""
        ...

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        """Page-locked host memory; raises `MemoryBudgetError`."""
        ...

    def free_pinned(self, memory: PinnedMemory) -> None:
        """Gives it back; nothing may look at its array any more."""
        ...

    def zero(self, address: int, size_bytes: int) -> None:
        """Queues zeros."""
        ...

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queues a copy between any two of device and pinned memory."""
        ...

    def copy_rows(self, target: Rows, source: Rows, *, width_bytes: int, rows: int) -> None:
        """Queues a copy of `rows` pieces of `width_bytes` within the device."""
        ...

    def holds(self, address: int) -> bool:
        """Whether an address that somebody else allocated is memory of this device."""
        ...

    def wait_for_others(self) -> None:
        """Waits for all work on the device, on whatever stream: what others wrote is there then."""
        ...

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """What `work` queues, as a graph; nothing of it is done yet. None: the device cannot capture it."""
        ...

    def synchronize(self) -> None:
        """Waits until all that was queued is done; raises `BackendError` when something of it failed."""
        ...

    def close(self) -> None:
        """Gives the stream and what is left back."""
        ...
