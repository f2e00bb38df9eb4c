"""The decoder engine with what its states share: scratch, the prefill context, buffers, and that one runs at a time."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.engines import DECODE_PROFILE, PREFILL_PROFILE
from neo_edge.errors import ContextOverflowError, InputError, SessionClosedError
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.tensorrt.buffers import Buffers
from neo_edge_runtime.tensorrt.engine import Port, require_ports

if TYPE_CHECKING:
    from neo_edge.config import DecoderConfig
    from neo_edge.engines import EngineLimits
    from neo_edge_runtime.tensorrt.device import Device
    from neo_edge_runtime.tensorrt.engine import Context, Engine
    from neo_edge_runtime.tensorrt.state import TrtDecoderState

_INT32, _FLOAT32, _BYTES = np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.uint8)
REBUILD = "build engines with a larger {option} (neo-edge build)"


class TrtDecoder:
    """A loaded decoder. All runs of a backend share one stream and one piece of scratch, so one runs at a time."""

    def __init__(
        self,
        device: Device,
        engine: Engine,
        config: DecoderConfig,
        limits: EngineLimits,
        *,
        cache_dtype: np.dtype[np.generic],
        embedding_dtype: np.dtype[np.generic],
        file: str,
    ) -> None:
        """Checks the engine against the model, and takes its scratch.

        Raises:
            EngineError: it is another model's.
            MemoryBudgetError: the device has no room for the scratch.
        """
        require_ports(engine, decoder_ports(config, cache_dtype, embedding_dtype), 2, file)
        self.device, self.engine, self.config, self.limits = device, engine, config, limits
        self.cache_dtype, self.embedding_dtype = cache_dtype, embedding_dtype
        self.buffers = Buffers(device)  # of prefills; one at a time uses them
        self.states: weakref.WeakSet[TrtDecoderState] = weakref.WeakSet()  # that are open
        # The garbage collector may end a state while this thread runs another.
        self._lock = threading.RLock()
        self._ended: deque[TrtDecoderState] = deque()  # by the garbage collector; still to be released
        self._kept = Buffers(device)
        size = max(engine.scratch_bytes(profile) for profile in (PREFILL_PROFILE, DECODE_PROFILE))
        self._scratch = self._kept.tensor("scratch_of_the_decoder", (size,), _BYTES)
        self._prefill: Context | None = None
        self._closed = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other run of this backend in the block, and the device is this thread's; raises when it is closed."""
        with self._lock:
            if self._closed:
                raise SessionClosedError("the model is closed: load the bundle again")
            self.device.activate()
            self._release_ended()
            yield

    def release_later(self, state: TrtDecoderState) -> None:
        """Releases a state when the lock is free: now, or in the next run.

        The garbage collector calls this in any thread, which may hold another backend's lock, so nothing waits here.
        """
        self._ended.append(state)
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self.device.activate()
                self._release_ended()
            finally:
                self._lock.release()

    @property
    def closed(self) -> bool:
        """Whether the device's memory is gone."""
        return self._closed

    def prefill_context(self) -> Context:
        """That of all states."""
        if self._prefill is None:
            self._prefill = self.engine.new_context(PREFILL_PROFILE, self._scratch, self.device.stream)
        return self._prefill

    def new_decode_context(self) -> Context:
        """One for a state: a captured graph holds only as long as its context stays as it was."""
        return self.engine.new_context(DECODE_PROFILE, self._scratch, self.device.stream)

    def capacity_within(self, batch: int, capacity: int) -> int:
        """C that a state gets that asks for `capacity`: at most what the engine takes.

        Raises:
            InputError: more sequences than the engine takes.
        """
        if not 1 <= batch <= self.limits.max_batch:
            raise InputError(
                f"{batch} sequences at once are asked for, the engines take 1 to {self.limits.max_batch}: "
                f"use a smaller batch_size, or {REBUILD.format(option='--max-batch')}"
            )
        return min(capacity, self.limits.max_context)

    def context_overflow(self, tokens: int) -> ContextOverflowError:
        """The error for more tokens than the engines' caches hold."""
        return ContextOverflowError(
            f"{tokens} tokens are needed and the engines hold {self.limits.max_context}: start a new conversation, or "
            + REBUILD.format(option="--max-context")
        )

    def close(self, close_beside: Callable[[], None]) -> None:
        """Gives the caches of open states, the scratch, the contexts and the weights back.

        `close_beside` closes what else is on the device, before this decoder counts as closed.
        """
        with self._lock:
            if self._closed:
                return
            self.device.activate()
            self._release_ended()
            for state in list(self.states):
                state.close()
            close_beside()
            self._closed = True
            if self._prefill is not None:
                self._prefill.close()
            self.buffers.release()
            self._kept.release()
            self.engine.close()

    def _release_ended(self) -> None:
        while self._ended:
            self._ended.popleft().release()


def require_inputs(inputs: DecoderInputs, decoder: TrtDecoder, *, batch: int, capacity: int) -> None:
    """Raises when a run does not fit the model, the state or the engine; nothing has changed then.

    Raises:
        InputError: an array has another shape or type, or a chunk is larger than the engine takes.
        ContextOverflowError: the tokens do not fit into the caches.
    """
    limits, embeds = decoder.limits, inputs.inputs_embeds
    rows, new_tokens = embeds.shape[:2] if embeds.ndim == 3 else (0, 0)
    logits_rows = inputs.logits_index.shape[-1] if inputs.logits_index.ndim == 2 else 0
    wanted = {
        "inputs_embeds": ((rows, new_tokens, decoder.config.hidden_size), decoder.embedding_dtype),
        "position_ids": ((rows, 3, new_tokens), _INT32),
        "visible_length": ((rows, new_tokens), _INT32),
        "write_index": ((rows,), _INT32),
        "logits_index": ((rows, logits_rows), _INT32),
    }
    for name, (shape, dtype) in wanted.items():
        array: np.ndarray = getattr(inputs, name)
        if array.shape != shape or array.dtype != dtype or 0 in shape:
            raise InputError(
                f"{name} is {list(array.shape)} {array.dtype}; it must be {list(shape)} {dtype}, without an empty "
                "dimension (docs/graph-contract.md)"
            )
    if rows > batch:
        raise InputError(f"the run is of {rows} sequences and its caches of {batch}")
    if new_tokens > limits.max_chunk:
        raise InputError(
            f"{new_tokens} tokens go in at once and the engines take {limits.max_chunk}: load the model with a smaller "
            f"max_visual_tokens (a picture stays whole) and chunk_tokens, or {REBUILD.format(option='--max-chunk')}"
        )
    if not (inputs.logits_index.min() >= 0 and inputs.logits_index.max() < new_tokens):
        raise InputError(f"logits_index must lie in 0..{new_tokens - 1}")
    last = int(inputs.write_index.max()) + new_tokens
    if last > limits.max_context:
        raise decoder.context_overflow(last)
    if last > capacity:
        raise InputError(
            f"the run ends at {last} tokens and the caches hold {capacity}: let them grow before it"
        )
    if inputs.write_index.min() < 0 or not (
        inputs.visible_length.min() >= 1 and inputs.visible_length.max() <= capacity
    ):
        raise InputError(
            f"write_index must be 0 or above and visible_length in 1..{capacity}, the capacity of the caches"
        )


def decoder_ports(
    config: DecoderConfig, cache_dtype: np.dtype[np.generic], embedding_dtype: np.dtype[np.generic]
) -> dict[str, Port]:
    """What goes into and comes out of a portable decoder."""
    kv, widths = config.num_kv_heads, {"key": config.key_dim, "value": config.head_dim}
    ports = [
        _input("inputs_embeds", embedding_dtype, (-1, -1, config.hidden_size)),
        _input("position_ids", _INT32, (-1, 3, -1)),
        _input("visible_length", _INT32, (-1, -1)),
        _input("write_index", _INT32, (-1,)),
        _input("logits_index", _INT32, (-1, -1)),
        Port("logits", _FLOAT32, (-1, -1, config.vocab_size), is_input=False, location="device"),
    ]
    for layer in range(config.num_layers):
        for kind, width in widths.items():
            shape = (-1, kv, -1, width)
            ports.append(_input(f"{kind}_cache.{layer}", cache_dtype, shape))
            ports.append(Port(f"new_{kind}s.{layer}", cache_dtype, shape, is_input=False, location="device"))
    return {port.name: port for port in ports}


def new_name(cache: str) -> str:
    """`key_cache.3` -> `new_keys.3`."""
    kind, _, layer = cache.partition("_cache.")
    return f"new_{kind}s.{layer}"


def _input(name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Port:
    return Port(name, dtype, shape, is_input=True, location="device")
