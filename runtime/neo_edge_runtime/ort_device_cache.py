"""Key and value caches in a device's memory, and how ONNX Runtime itself moves parts of them there.

Moving is a graph like any other, so it needs no CUDA package, runs on the session's own stream, and does on the CPU
what it does on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge_runtime.kv_cache import turn_t
from neo_edge_runtime.onnx_bytes import NamedTensor, Node, model_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import DecoderConfig
    from neo_edge_runtime.ort_device import OrtDevice

    _Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeviceTensor:
    """Memory of a device, allocated by ONNX Runtime."""

    value: Any  # an OrtValue; onnxruntime has no types
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def fill(self, array: npt.NDArray[np.generic]) -> None:
        """Copies from the host."""
        self.value.update_inplace(np.ascontiguousarray(array))

    def first(self, batch: int) -> tuple[int, ...]:
        """The shape of the first `batch` sequences, which lie at the front."""
        return (batch, *self.shape[1:])


@dataclass(frozen=True)
class DeviceMemory:
    """Allocates and binds on one device."""

    ort: ModuleType
    device: OrtDevice

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> DeviceTensor:
        """Whatever was there."""
        value = self.ort.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype.type, self.device.name, self.device.index
        )
        return DeviceTensor(value, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> DeviceTensor:
        """Finite numbers: what nobody wrote may hold NaN, which attention multiplies by zero."""
        tensor = self.empty(shape, dtype)
        tensor.fill(np.zeros(shape, dtype))
        return tensor

    def copied(self, array: npt.NDArray[np.generic]) -> DeviceTensor:
        """The same numbers on the device."""
        tensor = self.empty(array.shape, array.dtype)
        tensor.fill(array)
        return tensor

    def bind_input(
        self, io: Any, name: str, tensor: DeviceTensor, shape: Sequence[int] | None = None
    ) -> None:
        """`shape`: of the front part, when not all of it is meant."""
        io.bind_input(name, *self._place(tensor, shape))

    def bind_output(
        self, io: Any, name: str, tensor: DeviceTensor, shape: Sequence[int] | None = None
    ) -> None:
        """As `bind_input`; the same memory on both sides is what makes an update happen in place."""
        io.bind_output(name, *self._place(tensor, shape))

    def _place(self, tensor: DeviceTensor, shape: Sequence[int] | None) -> tuple[object, ...]:
        return (
            self.device.name,
            self.device.index,
            tensor.dtype.type,
            list(tensor.shape if shape is None else shape),
            tensor.value.data_ptr(),
        )


class DeviceCache:
    """One key and one value tensor a layer, [B, kv_heads, C, 2d] and [B, kv_heads, C, d]; zeros at first."""

    def __init__(
        self,
        memory: DeviceMemory,
        config: DecoderConfig,
        *,
        batch: int,
        capacity: int,
        dtype: np.dtype[np.generic],
    ) -> None:
        self._memory, self._config, self.dtype = memory, config, dtype
        self.batch, self.capacity = batch, capacity
        self.keys = [self._zeros(config.key_dim) for _ in range(config.num_layers)]
        self.values = [self._zeros(config.head_dim) for _ in range(config.num_layers)]

    def grow(self, mover: PieceMover, capacity: int, *, length: int, rows: int | None) -> None:
        """Moves into larger tensors one by one; the first `length` positions of the first `rows` stay."""
        batch = self.batch if rows is None else rows
        tensors = (self.keys, self.values)
        before = self.batch, self.capacity
        self.batch, self.capacity = batch, capacity
        try:
            # All of them before any is moved: a device without room leaves the cache as it was.
            new = [[self._zeros(old.shape[-1]) for old in layers] for layers in tensors]
        except BaseException:
            self.batch, self.capacity = before
            raise
        for layers, larger in zip(tensors, new, strict=True):
            for layer, target in enumerate(larger):
                mover.move(layers[layer], target, rows=batch, length=length)
                layers[layer] = target

    def copy(self, mover: PieceMover, *, length: int, capacity: int) -> DeviceCache:
        """Another cache with the first `length` positions of this one."""
        other = DeviceCache(self._memory, self._config, batch=self.batch, capacity=capacity, dtype=self.dtype)
        for source, target in zip(self.tensors, other.tensors, strict=True):
            mover.move(source, target, rows=self.batch, length=length)
        return other

    def copy_row(
        self, mover: PieceMover, row: int, source: DeviceCache, source_row: int, *, length: int
    ) -> None:
        """Makes the first `length` positions of a row those of another row, here or in another cache."""
        for theirs, mine in zip(source.tensors, self.tensors, strict=True):
            mover.move(theirs, mine, rows=1, length=length, source_row=source_row, target_row=row)

    def move(self, mover: PieceMover, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions of every row over others; no position is both a source and a target."""
        rows = np.arange(self.batch)
        for tensor in self.tensors:
            heads = tensor.shape[1]
            mover.move_positions(tensor, tensor, _places(rows, heads, sources), _places(rows, heads, targets))

    def shift_t(self, steps: int, *, length: int) -> None:
        """Turns the T part of the first `length` keys by `steps`, on the host: it happens once in many frames."""
        for tensor in self.keys:
            keys: npt.NDArray[np.generic] = np.array(tensor.value.numpy())
            turn_t(keys, self._config, steps, length=length)
            tensor.fill(keys)

    @property
    def tensors(self) -> list[DeviceTensor]:
        """All keys, then all values."""
        return [*self.keys, *self.values]

    def clear(self) -> None:
        """Drops the tensors."""
        self.keys, self.values, self.capacity = [], [], 0

    def _zeros(self, width: int) -> DeviceTensor:
        return self._memory.zeros((self.batch, self._config.num_kv_heads, self.capacity, width), self.dtype)


class PieceMover:
    """Copies the front of some sequences of one tensor into another, on the device."""

    def __init__(self, memory: DeviceMemory, session: Any) -> None:
        """`session`: of `piece_graph`."""
        self._memory, self._session = memory, session

    def move(
        self,
        source: DeviceTensor,
        target: DeviceTensor,
        *,
        rows: int,
        length: int,
        source_row: int = 0,
        target_row: int = 0,
    ) -> None:
        """The first `length` positions of `rows` sequences, from one row on to another row on."""
        if not length:
            return
        positions = np.arange(length)
        self.move_positions(
            source,
            target,
            _places(np.arange(source_row, source_row + rows), source.shape[1], positions),
            _places(np.arange(target_row, target_row + rows), source.shape[1], positions),
        )

    def move_positions(
        self, source: DeviceTensor, target: DeviceTensor, sources: _Indices, targets: _Indices
    ) -> None:
        """Copies what stands at `sources` to `targets`, both [B, kv_heads, S, 3]; the two tensors may be one."""
        memory, io = self._memory, self._memory.ort.IOBinding(self._session)
        places = {"sources": memory.copied(sources), "targets": memory.copied(targets)}
        for name, tensor in {**places, "source": source, "target": target}.items():
            memory.bind_input(io, name, tensor)
        memory.bind_output(io, "moved", target)
        self._session.run_with_iobinding(io)


def piece_graph(dtype: np.dtype[np.generic]) -> bytes:
    """source[sources] -> target[targets]; places are [B, kv_heads, S, 3]."""
    whole = np.dtype(np.int64)
    inputs = [NamedTensor(name, dtype, 4) for name in ("source", "target")]
    inputs += [NamedTensor(name, whole, 4) for name in ("sources", "targets")]
    nodes = [
        Node("GatherND", ("source", "sources"), "piece"),
        Node("ScatterND", ("target", "targets", "piece"), "moved"),
    ]
    return model_bytes(nodes, inputs, [NamedTensor("moved", dtype, 4)])


def append_graph(dtype: np.dtype[np.generic], tensors: int) -> bytes:
    """new.i [B, kv_heads, S, width] -> cache.i at `indices` [B, kv_heads, S, 3], for that many tensors at once."""
    numbers = range(tensors)
    inputs = [NamedTensor("indices", np.dtype(np.int64), 4)]
    inputs += [NamedTensor(f"{kind}.{number}", dtype, 4) for kind in ("cache", "new") for number in numbers]
    nodes = [
        Node("ScatterND", (f"cache.{number}", "indices", f"new.{number}"), f"appended.{number}")
        for number in numbers
    ]
    return model_bytes(nodes, inputs, [NamedTensor(f"appended.{number}", dtype, 4) for number in numbers])


def scatter_indices(starts: npt.NDArray[np.integer], length: int, *, heads: int) -> _Indices:
    """[B, heads, S, 3] int64: (sequence, head, position) of S tokens that begin at `starts` [B]."""
    return _places(np.arange(len(starts)), heads, starts[:, None, None] + np.arange(length))


def _places(rows: npt.NDArray[np.integer], heads: int, positions: npt.NDArray[np.integer]) -> _Indices:
    """[rows, heads, S, 3]: every head of these rows at `positions` [S], or [rows, 1, S]."""
    places = np.empty((len(rows), heads, positions.shape[-1], 3), np.int64)
    places[..., 0] = rows[:, None, None]
    places[..., 1] = np.arange(heads)[None, :, None]
    places[..., 2] = positions
    return places
