"""The decoder graph in ONNX Runtime, bound to caches in a device's memory.

Only the small inputs go to the device in a step, and only logits come back. Modern: the graph writes into its caches.
Portable: a second graph appends the new keys and values to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import BackendError, MemoryBudgetError
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.ort_device_cache import DeviceCache, DeviceMemory, PieceMover, scatter_indices

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.config import DecoderConfig
    from neo_edge_runtime.backend import DecoderState
    from neo_edge_runtime.ort_device_cache import DeviceTensor

_INPUT_NAMES = tuple(field.name for field in fields(DecoderInputs))
_NO_ROOM = (
    "failed to allocate",
    "out of memory",
    "allocation failed",
)  # in what ONNX Runtime raises, in lower case


@dataclass(frozen=True)
class DeviceDecoder:
    """A loaded decoder graph and what its states must know of it."""

    memory: DeviceMemory
    session: Any  # onnxruntime has no types
    mover: PieceMover
    appender: Any | None  # session of `append_graph`; None: the graph writes its caches itself
    config: DecoderConfig
    cache_dtype: np.dtype[np.generic]
    embedding_dtype: np.dtype[np.generic]  # of inputs_embeds
    errors: tuple[type[Exception], ...]  # what onnxruntime raises

    def failed(self, what: str, error: Exception) -> BackendError | MemoryBudgetError:
        """The typed error of what ONNX Runtime raised."""
        device = self.memory.device
        if any(words in str(error).lower() for words in _NO_ROOM):
            return MemoryBudgetError(
                f"{device.name}:{device.index} has no room for {what} ({error}): ask with fewer or smaller pictures, a "
                "shorter text or smaller chunks, close sessions, or take a smaller variant"
            )
        return BackendError(f"{what} failed on {device.name}:{device.index}: {error}")


class DeviceDecoderState:
    """Caches of B sequences on the device and the graph bound to them."""

    def __init__(self, decoder: DeviceDecoder, cache: DeviceCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._step: _Binding | None = None

    @classmethod
    def empty(cls, decoder: DeviceDecoder, *, batch: int, capacity: int) -> DeviceDecoderState:
        """Zeroed caches.

        Raises:
            MemoryBudgetError: the device has no room.
        """
        try:
            cache = DeviceCache(
                decoder.memory, decoder.config, batch=batch, capacity=capacity, dtype=decoder.cache_dtype
            )
        except decoder.errors as error:
            raise decoder.failed(f"caches of {batch} x {capacity} tokens", error) from error
        return cls(decoder, cache)

    @property
    def capacity(self) -> int:
        """C: cache positions that exist."""
        return self._cache.capacity

    @property
    def cache(self) -> DeviceCache:
        """The caches themselves."""
        return self._cache

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        """Appends S tokens to the first B sequences; logits [B, N, V] float32, the next decode step's too."""
        decode = inputs.inputs_embeds.shape[1] == 1 and inputs.logits_index.shape[1] == 1
        try:
            if decode and self._step is not None and self._step.batch == len(inputs.write_index):
                binding = self._step
                binding.take(inputs)
            else:
                binding = _Binding(self._decoder, self._cache, inputs)
                self._step = binding if decode else self._step
            binding.run()
        except self._decoder.errors as error:
            tokens, starts = inputs.inputs_embeds.shape[1], inputs.write_index.tolist()
            what = f"a run of {tokens} tokens at {starts} of {self.capacity}"
            raise self._decoder.failed(what, error) from error
        return binding.logits

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Makes room; the first `length` positions of the first `rows` are copied on the device."""
        self._step = None
        try:
            self._cache.grow(self._decoder.mover, capacity, length=length, rows=rows)
        except self._decoder.errors as error:
            raise self._decoder.failed(f"growing a cache to {capacity} tokens", error) from error

    def copy_row(self, row: int, source: DecoderState, source_row: int, *, length: int) -> None:
        """Copies the filled part of one row; nothing is bound anew."""
        assert isinstance(source, DeviceDecoderState)
        try:
            self._cache.copy_row(self._decoder.mover, row, source.cache, source_row, length=length)
        except self._decoder.errors as error:
            raise self._decoder.failed(f"copying {length} tokens of a cache", error) from error

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions over others, on the device; nothing is bound anew."""
        try:
            self._cache.move(self._decoder.mover, sources, targets)
        except self._decoder.errors as error:
            raise self._decoder.failed(f"moving {len(sources)} tokens of a cache", error) from error

    def shift_t(self, steps: int, *, length: int) -> None:
        """Turns the keys' T part."""
        try:
            self._cache.shift_t(steps, length=length)
        except self._decoder.errors as error:
            raise self._decoder.failed(f"turning {length} keys of a cache", error) from error

    def copy(self, *, length: int, capacity: int) -> DeviceDecoderState:
        """An independent state with the first `length` positions."""
        try:
            cache = self._cache.copy(self._decoder.mover, length=length, capacity=capacity)
        except self._decoder.errors as error:
            raise self._decoder.failed(f"a second cache of {capacity} tokens", error) from error
        return DeviceDecoderState(self._decoder, cache)

    def release_scratch(self) -> None:
        """Runs one token of this state's first sequence over whatever was there, and shrinks the arena."""
        decoder = self._decoder
        options = decoder.memory.ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", decoder.memory.device.arena)
        try:
            _Binding(decoder, self._cache, one_token(decoder)).run(options)
        except decoder.errors as error:
            raise decoder.failed("giving scratch memory back", error) from error

    def close(self) -> None:
        """Drops the caches and all that is bound to them."""
        self._step = None
        self._cache.clear()


class _Binding:
    """Device memory of one graph run: small inputs, new keys and values; logits on the host."""

    def __init__(self, decoder: DeviceDecoder, cache: DeviceCache, inputs: DecoderInputs) -> None:
        self._decoder, self._cache, memory = decoder, cache, decoder.memory
        self._io = memory.ort.IOBinding(decoder.session)
        self.batch, rows = inputs.logits_index.shape
        self._new_tokens = inputs.inputs_embeds.shape[1]
        self._inputs = {name: memory.copied(getattr(inputs, name)) for name in _INPUT_NAMES}
        for name, tensor in self._inputs.items():
            memory.bind_input(self._io, name, tensor)
        shape = (self.batch, rows, decoder.config.vocab_size)
        self.logits: npt.NDArray[np.float32] = np.empty(shape, np.float32)
        self._io.bind_output("logits", "cpu", 0, np.float32, list(shape), self.logits.ctypes.data)
        self._bind_caches()
        self._append = None if decoder.appender is None else self._bind_append(inputs.write_index)

    def take(self, inputs: DecoderInputs) -> None:
        """Copies the next step's inputs to the device."""
        for name, tensor in self._inputs.items():
            tensor.fill(getattr(inputs, name))
        if self._append is not None:
            self._indices.fill(self._places(inputs.write_index))

    def run(self, options: Any = None) -> None:
        """Runs the decoder, then appends where it did not."""
        self._decoder.session.run_with_iobinding(self._io, options)
        if self._append is not None:
            assert self._decoder.appender is not None
            self._decoder.appender.run_with_iobinding(self._append, options)

    def _bind_caches(self) -> None:
        memory = self._decoder.memory
        self._new: list[DeviceTensor] = []
        for kind, tensors in (("key", self._cache.keys), ("value", self._cache.values)):
            for layer, tensor in enumerate(tensors):
                shape = tensor.first(self.batch)
                memory.bind_input(self._io, f"{kind}_cache.{layer}", tensor, shape)
                if self._decoder.appender is None:
                    memory.bind_output(self._io, f"{kind}_cache_out.{layer}", tensor, shape)
                else:
                    new = memory.empty((*shape[:2], self._new_tokens, shape[3]), tensor.dtype)
                    memory.bind_output(self._io, f"new_{kind}s.{layer}", new)
                    self._new.append(new)

    def _bind_append(self, write_index: npt.NDArray[np.int32]) -> Any:
        memory = self._decoder.memory
        io = memory.ort.IOBinding(self._decoder.appender)
        self._indices = memory.copied(self._places(write_index))
        memory.bind_input(io, "indices", self._indices)
        for number, (tensor, new) in enumerate(zip(self._cache.tensors, self._new, strict=True)):
            shape = tensor.first(self.batch)
            memory.bind_input(io, f"cache.{number}", tensor, shape)
            memory.bind_input(io, f"new.{number}", new)
            memory.bind_output(io, f"appended.{number}", tensor, shape)
        return io

    def _places(self, write_index: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        return scatter_indices(write_index, self._new_tokens, heads=self._decoder.config.num_kv_heads)


def one_token(decoder: DeviceDecoder) -> DecoderInputs:
    """A token of zeros at the front of the first sequence: the smallest run there is."""
    return DecoderInputs(
        inputs_embeds=np.zeros((1, 1, decoder.config.hidden_size), decoder.embedding_dtype),
        position_ids=np.zeros((1, 3, 1), np.int32),
        visible_length=np.ones((1, 1), np.int32),
        write_index=np.zeros(1, np.int32),
        logits_index=np.zeros((1, 1), np.int32),
    )
