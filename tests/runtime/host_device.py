"""A `Device` in host memory: queues like a GPU, runs at `synchronize`, and knows which address lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from neo_edge.errors import BackendError, MemoryBudgetError
from neo_edge_runtime.device_frame import DeviceFrame
from neo_edge_runtime.tensorrt.device import Graph, Kernels, Location, PinnedMemory, Rows, Tensor

Work = Callable[[], None]
_ALIGNMENT = 256
_DIRT = 0xFF  # of fresh memory: NaN as a float


class HostDevice:
    """Memory of a "GPU" of so many bytes; a copy that leaves an allocation, or takes host for device, fails."""

    def __init__(
        self,
        *,
        compute_capability: str = "86",
        memory_bytes: int = 1 << 30,
        has_kernels: bool = True,
        captures: bool = True,
    ) -> None:
        self.name = "the host"
        self.compute_capability = compute_capability
        self.stream = 7
        self.captures = captures
        self.closed = False
        self.free_memory = memory_bytes
        self.allocated: dict[Location, dict[int, np.ndarray]] = {"device": {}, "host": {}}
        self.launches = 0  # of graphs
        self.waited = 0  # for others
        self.queued = 0  # pieces of work outside graphs
        self.copied_back = 0  # bytes from the device to the host
        self._kernels = HostKernels(self) if has_kernels else None
        self._queue: list[Work] = []
        self._capturing = False

    @property
    def kernels(self) -> Kernels | None:
        return self._kernels

    def activate(self) -> None:
        assert not self.closed

    def free_bytes(self) -> int:
        return self.free_memory

    def allocate(self, size_bytes: int, purpose: str) -> int:
        assert not self._capturing, "memory is not taken within a capture"
        if size_bytes > self.free_memory:
            raise MemoryBudgetError(f"the GPU has no memory left for {purpose}")
        self.free_memory -= size_bytes
        return self._take("device", size_bytes)

    def free(self, address: int) -> None:
        if self.closed:
            return
        self._run_queue()
        self.free_memory += len(self.allocated["device"].pop(address))

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        address = self._take("host", size_bytes)
        return PinnedMemory(address, self.allocated["host"][address])

    def free_pinned(self, memory: PinnedMemory) -> None:
        if not self.closed:
            self._run_queue()
            del self.allocated["host"][memory.address]

    def zero(self, address: int, size_bytes: int) -> None:
        self.view(address, size_bytes, "device")
        self.queue(lambda: self.view(address, size_bytes, "device").fill(0))

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        def run() -> None:
            self.view(target, size_bytes)[...] = self.view(source, size_bytes)
            if self.location(target) == "host":
                self.copied_back += size_bytes

        self.view(target, size_bytes)
        self.view(source, size_bytes)
        self.queue(run)

    def copy_rows(self, target: Rows, source: Rows, *, width_bytes: int, rows: int) -> None:
        assert width_bytes <= min(target.pitch, source.pitch)

        def run() -> None:
            for row in range(rows):
                there = self.view(target.address + row * target.pitch, width_bytes, "device")
                there[...] = self.view(source.address + row * source.pitch, width_bytes, "device")

        self.queue(run)

    def holds(self, address: int) -> bool:
        return any(start <= address < start + len(block) for start, block in self.allocated["device"].items())

    def wait_for_others(self) -> None:
        self.waited += 1
        self._run_queue()

    def capture(self, work: Work) -> Graph | None:
        self._run_queue()
        self._queue, self._capturing = [], True
        try:
            work()
        except BackendError:
            return None
        finally:
            steps, self._queue, self._capturing = self._queue, [], False
        return HostGraph(self, steps) if self.captures else None

    def synchronize(self) -> None:
        assert not self._capturing
        self._run_queue()

    def close(self) -> None:
        self._run_queue()
        self.closed = True

    def queue(self, work: Work) -> None:
        """Puts work behind what is there."""
        assert not self.closed
        if not self._capturing:
            self.queued += 1
        self._queue.append(work)

    def location(self, address: int) -> Location:
        """Where an address lies."""
        return self._found(address)[0]

    def view(self, address: int, size_bytes: int, location: Location | None = None) -> np.ndarray:
        """The bytes there, which must lie in one allocation, of that kind if it is given."""
        found, start, block = self._found(address)
        assert location in (None, found), f"{address} lies on the {found}, not on the {location}"
        assert address + size_bytes <= start + len(block), "beyond the end of an allocation"
        return block[address - start : address - start + size_bytes]

    def array(self, tensor: Tensor) -> np.ndarray:
        """A tensor as an array over the memory."""
        return (
            self.view(tensor.address, tensor.nbytes, tensor.location).view(tensor.dtype).reshape(tensor.shape)
        )

    def _found(self, address: int) -> tuple[Location, int, np.ndarray]:
        for location, blocks in self.allocated.items():
            for start, block in blocks.items():
                if start <= address < start + len(block):
                    return location, start, block
        raise AssertionError(f"no memory at {address}")

    def _take(self, location: Location, size_bytes: int) -> int:
        raw = np.full(max(1, size_bytes) + _ALIGNMENT, _DIRT, np.uint8)
        shift = -raw.ctypes.data % _ALIGNMENT
        block = raw[shift : shift + max(1, size_bytes)]
        self.allocated[location][block.ctypes.data] = block
        return int(block.ctypes.data)

    def _run_queue(self) -> None:
        assert not self._capturing, "a capture waits for nothing"
        queue, self._queue = self._queue, []
        for work in queue:
            work()


@dataclass
class HostGraph:
    """Steps that run again and again, over what stands at their addresses then."""

    device: HostDevice
    steps: list[Work]
    closed: bool = field(default=False, init=False)

    def launch(self) -> None:
        assert not self.closed
        self.device.launches += 1
        self.device.queue(lambda: [step() for step in self.steps] and None)

    def close(self) -> None:
        self.closed = True


class HostKernels:
    """What the CUDA programs do, in numpy."""

    def __init__(self, device: HostDevice) -> None:
        self._device = device

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
        assert table.shape == (tensors, 3)

        def run() -> None:
            starts = self._device.array(write_index).tolist()
            for source, target, words in self._device.array(table).tolist():
                dtype, shape = np.dtype(np.uint32), (batch, heads, new_tokens, words)
                new = self._device.array(Tensor(source, shape, dtype))
                cache = self._device.array(Tensor(target, (batch, heads, capacity, words), dtype))
                for row, start in enumerate(starts):
                    cache[row, :, start : start + new_tokens] = new[row]

        self._device.queue(run)

    def likeliest(self, logits: Tensor, found: Tensor) -> None:
        def run() -> None:
            rows = self._device.array(logits)
            self._device.array(found)[...] = np.stack([rows.argmax(1), np.isfinite(rows).all(1)], axis=1)

        self._device.queue(run)

    def candidates(
        self, logits: Tensor, temperature: Tensor, tokens: Tensor, values: Tensor, summary: Tensor
    ) -> None:
        def run() -> None:
            row, heat = self._device.array(logits), self._device.array(temperature)[0]
            keep = tokens.shape[0]
            below = np.partition(row, len(row) - keep)[len(row) - keep]
            places = np.flatnonzero(row > below)[::-1]  # any order will do
            self._device.array(tokens)[: len(places)] = places
            self._device.array(values)[: len(places)] = row[places]
            with np.errstate(invalid="ignore"):
                scores = row / heat
                total = np.exp(scores - scores.max()).sum()
            self._device.array(summary)[...] = len(places), below, total, np.isfinite(row).all()

        self._device.queue(run)

    def turn(self, keys: Tensor, turns: Tensor, *, length: int) -> None:
        def run() -> None:
            cosine, sine = self._device.array(turns).T
            part = self._device.array(keys)[:, :, :length, : 2 * len(cosine)]
            x, y = part[..., ::2].astype(np.float32), part[..., 1::2].astype(np.float32)
            part[..., ::2], part[..., 1::2] = x * cosine - y * sine, x * sine + y * cosine

        self._device.queue(run)

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
        def run() -> None:
            span = sum(
                stride * (size - 1)
                for stride, size in zip(frame.strides, (frame.height, frame.width, 3), strict=True)
            )
            pixels = np.lib.stride_tricks.as_strided(
                self._device.view(frame.address, span + 1, "device"),
                (frame.height, frame.width, 3),
                frame.strides,
            )
            across = self._device.array(narrowed)
            across[...] = _weighted(pixels.transpose(1, 0, 2), self._device.array(columns)).transpose(1, 0, 2)
            resized = _weighted(across, self._device.array(rows))
            scale, offset = self._device.array(normalization)
            numbers = resized * scale - offset
            cut = [size // patch_size // merge_size for size in numbers.shape[:2]]
            blocks = numbers.reshape(cut[0], merge_size, patch_size, cut[1], merge_size, patch_size, 3)
            there = self._device.array(patches)
            there[...] = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(there.shape)

        self._device.queue(run)


def _weighted(lines: np.ndarray, table: np.ndarray) -> np.ndarray:
    """[N, M, 3] uint8 -> [len(table), M, 3], each a sum of lines with weights of 22 fractional bits."""
    found = np.empty((len(table), *lines.shape[1:]), np.uint8)
    for place, (first, count, *weights) in enumerate(table.tolist()):
        taken = lines[first : first + count].astype(np.int64)
        total = np.tensordot(np.array(weights[:count]), taken, 1) + (1 << 21)
        found[place] = np.clip(total >> 22, 0, 255)
    return found
