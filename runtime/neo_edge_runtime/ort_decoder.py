"""The decoder graph in ONNX Runtime, bound to host caches.

Modern: the graph writes into its caches, because the same memory is bound as input and output. Portable: it
hands out the new keys and values, and the host writes them. Either way a step copies no cache, and a decode
step binds nothing: its small inputs are bound once and then mutated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import BackendError
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.denormals import DenormalsFlushed
from neo_edge_runtime.heap import trim_heap
from neo_edge_runtime.host_state import HostState
from neo_edge_runtime.kv_cache import HostCache

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt

    from neo_edge.config import DecoderConfig

    _Array = npt.NDArray[np.generic]

_INPUT_NAMES = tuple(field.name for field in fields(DecoderInputs))
# Largest [B, heads, S, C] float32 scores whose scratch may stay: 16 heads of 1,024 tokens behind 4,096 are 0.35 GiB.
_KEPT_SCORES_BYTES = 2**29
# After such a run the arena hands its scratch (attention scores, chiefly) back to the system.
_SHRINK_ARENA = ("memory.enable_memory_arena_shrinkage", "cpu:0")


@dataclass(frozen=True)
class OrtDecoder:
    """A loaded decoder graph and what its states must know of it."""

    ort: ModuleType
    session: Any  # onnxruntime has no types
    config: DecoderConfig
    cache_dtype: np.dtype[np.generic]
    embedding_dtype: np.dtype[np.generic]  # of inputs_embeds
    portable: bool
    errors: tuple[type[Exception], ...]  # what onnxruntime raises
    keep_scratch: bool = (
        True  # between prefills: fresh pages take 3 to 5 % of the time of one of 1,024 tokens
    )

    def new_state(self, *, batch: int, capacity: int) -> OrtDecoderState:
        """Zeroed caches."""
        return OrtDecoderState(
            self, HostCache(self.config, batch=batch, capacity=capacity, dtype=self.cache_dtype)
        )

    def release_scratch(self) -> None:
        """Runs one token over whatever is there, and hands the scratch back to the system."""
        self.new_state(batch=1, capacity=1).release_scratch()

    def run_options(self, *, release_scratch: bool) -> Any:
        """Options of a run; None: the default ones."""
        if not release_scratch:
            return None
        options = self.ort.RunOptions()
        options.add_run_config_entry(*_SHRINK_ARENA)
        return options


class OrtDecoderState(HostState):
    """Caches of B sequences in host memory and the graph bound to them."""

    def __init__(self, decoder: OrtDecoder, cache: HostCache) -> None:
        super().__init__(cache)
        self._decoder = decoder
        self._step: _Binding | None = None
        self._flushing = DenormalsFlushed()

    def release_scratch(self) -> None:
        """Runs one token of this state's first sequence over whatever was there, and hands the scratch back."""
        decoder = self._decoder
        inputs = DecoderInputs(
            inputs_embeds=np.zeros((1, 1, decoder.config.hidden_size), decoder.embedding_dtype),
            position_ids=np.zeros((1, 3, 1), np.int32),
            visible_length=np.ones((1, 1), np.int32),
            write_index=np.zeros(1, np.int32),
            logits_index=np.zeros((1, 1), np.int32),
        )
        binding = _Binding(decoder, self._cache, inputs)
        decoder.session.run_with_iobinding(binding.io, decoder.run_options(release_scratch=True))
        trim_heap()

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        """Appends S tokens to the first B sequences; logits [B, N, V] float32, the next decode step's too."""
        decode = inputs.inputs_embeds.shape[1] == 1 and inputs.logits_index.shape[1] == 1
        if not decode:
            binding = _Binding(self._decoder, self._cache, inputs)
        elif self._step is None or self._step.batch != len(inputs.write_index):
            binding = self._step = _Binding(self._decoder, self._cache, _copied(inputs))
        else:
            binding = self._step
            binding.take(inputs)
        options = None if decode else self._prefill_options(inputs)
        try:
            with self._flushing:
                self._decoder.session.run_with_iobinding(binding.io, options)
        except self._decoder.errors as error:
            raise BackendError(
                f"the decoder graph failed on {inputs.inputs_embeds.shape[1]} tokens at {inputs.write_index.tolist()} "
                f"of {self.capacity}: {error}"
            ) from error
        if options is not None:
            trim_heap()
        if self._decoder.portable:
            self._append(binding, inputs)
        return binding.logits

    def copy(self, *, length: int, capacity: int) -> OrtDecoderState:
        """An independent state with the first `length` positions."""
        return OrtDecoderState(self._decoder, self._cache.copy(length=length, capacity=capacity))

    def _unbind(self) -> None:
        self._step = None

    def _prefill_options(self, inputs: DecoderInputs) -> Any:
        batch, new_tokens = inputs.inputs_embeds.shape[:2]
        scores = 4 * batch * self._decoder.config.num_heads * new_tokens * self.capacity
        keep = self._decoder.keep_scratch and scores <= _KEPT_SCORES_BYTES
        return self._decoder.run_options(release_scratch=not keep)

    def _append(self, binding: _Binding, inputs: DecoderInputs) -> None:
        for row, start in enumerate(inputs.write_index.tolist()):
            end = start + inputs.inputs_embeds.shape[1]
            for cache, new in zip(self._cache.keys, binding.new_keys, strict=True):
                cache[row, :, start:end] = new[row]
            for cache, new in zip(self._cache.values, binding.new_values, strict=True):
                cache[row, :, start:end] = new[row]


class _Binding:
    """Input and output memory of one graph run, held as long as the graph may use it."""

    def __init__(self, decoder: OrtDecoder, cache: HostCache, inputs: DecoderInputs) -> None:
        self._ort, self._inputs = decoder.ort, inputs
        self.io = decoder.ort.IOBinding(decoder.session)
        self.batch, rows = inputs.logits_index.shape
        self.logits: npt.NDArray[np.float32] = np.empty(
            (self.batch, rows, decoder.config.vocab_size), np.float32
        )
        self.new_keys, self.new_values = [], []
        for name in _INPUT_NAMES:
            self._input(name, getattr(inputs, name))
        self._output("logits", self.logits)
        new_tokens = inputs.inputs_embeds.shape[1]
        for layer, (key, value) in enumerate(zip(cache.keys, cache.values, strict=True)):
            keys = self._input(f"key_cache.{layer}", key[: self.batch])
            values = self._input(f"value_cache.{layer}", value[: self.batch])
            if decoder.portable:
                self.new_keys.append(self._new(f"new_keys.{layer}", key, new_tokens))
                self.new_values.append(self._new(f"new_values.{layer}", value, new_tokens))
            else:
                # The same OrtValue on both sides is what makes the update happen in place.
                self.io.bind_ortvalue_output(f"key_cache_out.{layer}", keys)
                self.io.bind_ortvalue_output(f"value_cache_out.{layer}", values)

    def take(self, inputs: DecoderInputs) -> None:
        """Copies the next step's inputs into the bound memory."""
        mine = self._inputs
        mine.inputs_embeds[...] = inputs.inputs_embeds
        mine.position_ids[...] = inputs.position_ids
        mine.visible_length[...] = inputs.visible_length
        mine.write_index[...] = inputs.write_index
        mine.logits_index[...] = inputs.logits_index

    def _input(self, name: str, array: _Array) -> Any:
        value = self._ort.OrtValue.ortvalue_from_numpy(array)
        self.io.bind_ortvalue_input(name, value)
        return value

    def _output(self, name: str, array: _Array) -> None:
        self.io.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_numpy(array))

    def _new(self, name: str, cache: _Array, new_tokens: int) -> _Array:
        _, heads, _, width = cache.shape
        array = np.empty((self.batch, heads, new_tokens, width), cache.dtype)
        self._output(name, array)
        return array


def _copied(inputs: DecoderInputs) -> DecoderInputs:
    return DecoderInputs(**{name: np.array(getattr(inputs, name)) for name in _INPUT_NAMES})
