"""The decoder on kernels of our own, over host caches."""

from __future__ import annotations

import mmap
import weakref
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import BackendError, CacheError
from neo_edge_runtime.cpu.compiling import LIBRARY_FILE
from neo_edge_runtime.cpu.layout import WEIGHTS_FILE, read_layout
from neo_edge_runtime.cpu.library import Library, Step, addresses
from neo_edge_runtime.heap import trim_heap
from neo_edge_runtime.host_state import HostState
from neo_edge_runtime.kv_cache import HostCache

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from neo_edge.config import DecoderConfig
    from neo_edge_runtime.backend import DecoderInputs


class CpuDecoder:
    """Packed weights, mapped from their file, and the threads that compute with them; runs take turns."""

    def __init__(
        self, folder: Path, config: DecoderConfig, *, threads: int, keep_scratch: bool = True
    ) -> None:
        """Maps an entry of the prepacked cache.

        Args:
            folder: the entry's.
            config: of the model.
            threads: that share each loop, the caller among them.
            keep_scratch: whether what a prefill works in stays for the next one.

        Raises:
            CacheError: the entry is damaged, or its library does not load.
            MemoryBudgetError: the system gives no memory or threads.
        """
        layout = read_layout(folder, config)
        library = Library(folder / LIBRARY_FILE)
        try:
            with (folder / WEIGHTS_FILE).open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{folder / WEIGHTS_FILE} cannot be mapped ({error}): run `neo-edge prepack` to build it anew"
            ) from error
        weights = np.frombuffer(pages, np.uint8)  # it holds the mapping
        self.config, self.kernels = config, library.kernels
        self._library, self._keep_scratch = library, keep_scratch
        self._handle = library.new_decoder(layout, weights.ctypes.data, threads)
        # Not when the interpreter ends: another thread may be inside, and a fork has none of the workers.
        weakref.finalize(self, _delete, library, self._handle, weights).atexit = False

    def run(self, step: Step) -> None:
        """Runs tokens; what a prefill worked in goes back unless it is kept."""
        self._library.run(self._handle, step)
        if step.tokens > 1 and not self._keep_scratch:
            self.release_scratch()

    def release_scratch(self) -> None:
        """Hands what runs worked in back to the system."""
        self._library.release(self._handle)
        trim_heap()

    def new_state(self, *, batch: int, capacity: int) -> CpuDecoderState:
        """Zeroed caches."""
        return CpuDecoderState(self, HostCache(self.config, batch=batch, capacity=capacity))


class CpuDecoderState(HostState):
    """Caches of B sequences in host memory and the decoder that reads and fills them."""

    def __init__(self, decoder: CpuDecoder, cache: HostCache) -> None:
        super().__init__(cache)
        self._decoder = decoder
        self._step: Step | None = None
        self._logits: npt.NDArray[np.float32] | None = None  # of decode steps

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        """Appends S tokens to the first B sequences; logits [B, N, V] float32, the next decode step's too."""
        step = self._step = self._bound() if self._step is None else self._step
        # Held until the run is over: what is not in C order is a copy.
        arrays = (
            np.ascontiguousarray(inputs.inputs_embeds, np.float32),
            np.ascontiguousarray(inputs.position_ids, np.int32),
            np.ascontiguousarray(inputs.visible_length, np.int32),
            np.ascontiguousarray(inputs.write_index, np.int32),
            np.ascontiguousarray(inputs.logits_index, np.int32),
        )
        step.batch, step.tokens, step.rows = self._sizes(arrays)
        logits = self._room_for_logits(step.batch, step.tokens, step.rows)
        (
            step.inputs_embeds,
            step.position_ids,
            step.visible_length,
            step.write_index,
            step.logits_index,
        ) = (array.ctypes.data for array in arrays)
        step.logits = logits.ctypes.data
        self._decoder.run(step)
        return logits

    def copy(self, *, length: int, capacity: int) -> CpuDecoderState:
        """An independent state with the first `length` positions."""
        return CpuDecoderState(self._decoder, self._cache.copy(length=length, capacity=capacity))

    def _bound(self) -> Step:
        step = Step(capacity=self.capacity)
        step.key_caches = addresses([array.ctypes.data for array in self._cache.keys])
        step.value_caches = addresses([array.ctypes.data for array in self._cache.values])
        return step

    def _sizes(self, arrays: tuple[npt.NDArray[np.generic], ...]) -> tuple[int, int, int]:
        """B, S and N of a run; the kernels take the arrays' sizes on trust."""
        (batch, tokens, *_), rows = arrays[0].shape, arrays[-1].shape[-1]
        wanted = (
            *((batch, tokens, self._decoder.config.hidden_size), (batch, 3, tokens), (batch, tokens)),
            *((batch,), (batch, rows)),
        )
        shapes = tuple(array.shape for array in arrays)
        if shapes != wanted or batch > self._cache.batch:
            raise BackendError(
                f"the decoder refused inputs of shapes {shapes}: it has caches of {self._cache.batch} sequences, and "
                f"takes {wanted}"
            )
        return batch, tokens, rows

    def _room_for_logits(self, batch: int, tokens: int, rows: int) -> npt.NDArray[np.float32]:
        shape = (batch, rows, self._decoder.config.vocab_size)
        if tokens != 1:
            return np.empty(shape, np.float32)
        if self._logits is None or self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
        return self._logits

    def _unbind(self) -> None:
        self._step = None


def _delete(library: Library, handle: int, weights: npt.NDArray[np.uint8]) -> None:
    library.delete(handle)
    del weights  # its mapping may go now, not before
