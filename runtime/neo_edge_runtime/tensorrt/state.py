"""The caches of B sequences on the device, and the decoder that reads and fills them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.engines import DECODE_PROFILE, PREFILL_PROFILE
from neo_edge.errors import InputError
from neo_edge_runtime.backend import Likeliest
from neo_edge_runtime.kv_cache import t_turns
from neo_edge_runtime.tensorrt.buffers import Buffers, PackedArrays
from neo_edge_runtime.tensorrt.decoder import require_inputs
from neo_edge_runtime.tensorrt.decoder_run import DecoderRun, Wanted
from neo_edge_runtime.tensorrt.device_cache import DeviceCache

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge_runtime.backend import Candidates, DecoderInputs, DecoderState
    from neo_edge_runtime.tensorrt.decoder import TrtDecoder
    from neo_edge_runtime.tensorrt.device import Graph
    from neo_edge_runtime.tensorrt.engine import Context

_log = logging.getLogger(__name__)


class TrtDecoderState:
    """Caches on the device. A decode step runs as a CUDA graph from its second run at the same shapes on."""

    def __init__(self, decoder: TrtDecoder, cache: DeviceCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._buffers = Buffers(decoder.device)  # of decode steps: a graph holds their addresses
        self._context: Context | None = None
        self._step: _Step | None = None
        decoder.states.add(self)

    @classmethod
    def empty(cls, decoder: TrtDecoder, *, batch: int, capacity: int) -> TrtDecoderState:
        """Zeroed caches; of the engines' largest capacity where more is asked for."""
        with decoder.alone():
            within = decoder.capacity_within(batch, capacity)
            cache = DeviceCache(
                decoder.device, decoder.config, batch=batch, capacity=within, dtype=decoder.cache_dtype
            )
            return cls(decoder, cache)

    @property
    def capacity(self) -> int:
        """C: cache positions that exist."""
        return self._cache.capacity

    @property
    def replays(self) -> bool:
        """Whether the last decode step was a CUDA graph."""
        return self._step is not None and bool(self._step.graphs)

    def run(self, inputs: DecoderInputs) -> npt.NDArray[np.float32]:
        """Appends S tokens to the first B sequences; logits [B, N, V] float32, the next decode step's too."""
        with self._decoder.alone():
            self._require(inputs)
            if _is_decode(inputs):
                return self._decode(inputs, "logits").logits
            # Copied: the next prefill of any state writes there.
            pieces = [self._prefill(piece, "logits").logits.copy() for piece in self._pieces(inputs)]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def run_likeliest(self, inputs: DecoderInputs) -> Likeliest:
        """As `run`, with the arg-max found on the device: 8 bytes a row come back instead of 4 a logit."""
        with self._decoder.alone():
            self._require(inputs)
            found = [
                (self._decode if _is_decode(piece) else self._prefill)(piece, "likeliest").likeliest.copy()
                for piece in self._pieces(inputs)
            ]
            tokens = [piece[:, 0].reshape(len(inputs.write_index), -1) for piece in found]
            return Likeliest(np.concatenate(tokens, axis=1), all(bool(piece[:, 1].all()) for piece in found))

    def run_candidates(self, inputs: DecoderInputs, temperature: float) -> Candidates:
        """As `run`, with the largest logits found on the device: 8 KiB come back, not 4 bytes a logit."""
        with self._decoder.alone():
            self._require(inputs)
            if not _is_decode(inputs) or len(inputs.write_index) != 1:
                raise InputError(
                    f"candidates are asked for after {list(inputs.inputs_embeds.shape[:2])} tokens; they are found for "
                    "one token of one sequence: use `run`"
                )
            return self._decode(inputs, "candidates", temperature).candidates

    def whole_logits(self) -> npt.NDArray[np.float32]:
        """[1, 1, V] of the last `run_candidates`; valid until the next run."""
        with self._decoder.alone():
            if self._step is None:
                raise InputError("no step has run since the caches grew: there are no logits to fetch")
            self._step.run.fetch_logits()
            self._decoder.device.synchronize()
            return self._step.run.logits

    def grow(self, capacity: int, *, length: int, rows: int | None = None) -> None:
        """Makes room, up to what the engines take; a run that needs more raises `ContextOverflowError`."""
        with self._decoder.alone():
            batch = self._cache.batch if rows is None else rows
            within = self._decoder.capacity_within(batch, capacity)
            if within > self.capacity:
                self._drop_step()
                self._cache.grow(within, length=length, rows=rows)

    def copy_row(self, row: int, source: DecoderState, source_row: int, *, length: int) -> None:
        """Copies the filled part of one row on the device."""
        assert isinstance(source, TrtDecoderState)
        with self._decoder.alone():
            self._cache.copy_row(row, source._cache, source_row, length=length)

    def move(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copies positions of every row over others, on the device."""
        with self._decoder.alone():
            self._cache.move(sources.tolist(), targets.tolist())

    def shift_t(self, steps: int, *, length: int) -> None:
        """Turns the T part of the first `length` keys by `steps`, on the device."""
        turns = t_turns(self._decoder.config, steps).view(np.float32).reshape(-1, 2)
        with self._decoder.alone():
            device = self._decoder.device
            packed = PackedArrays(
                device, self._decoder.buffers, "turns", {"turns": (turns.shape, np.float32)}
            )
            packed.host["turns"][...] = turns
            packed.upload()
            self._cache.turn_t(packed.tensors["turns"], length=length)
            device.synchronize()

    def copy(self, *, length: int, capacity: int) -> TrtDecoderState:
        """An independent state with the first `length` positions."""
        with self._decoder.alone():
            within = self._decoder.capacity_within(self._cache.batch, capacity)
            return TrtDecoderState(self._decoder, self._cache.copy(length=length, capacity=within))

    def close(self) -> None:
        """Gives the caches, the graph and the context back; may be called twice."""
        self._decoder.states.discard(self)
        with nullcontext() if self._decoder.closed else self._decoder.alone():
            self.release()

    def release(self) -> None:
        """As `close`, by who is alone on the device or after it is gone."""
        self._drop_step()
        if self._context is not None:
            self._context.close()
            self._context = None
        self._buffers.release()
        self._cache.clear()

    def __del__(self) -> None:
        if getattr(self, "_cache", None) is not None and self._cache.tensors:
            self._decoder.release_later(self)

    def _require(self, inputs: DecoderInputs) -> None:
        require_inputs(inputs, self._decoder, batch=self._cache.batch, capacity=self.capacity)

    def _pieces(self, inputs: DecoderInputs) -> Iterator[DecoderInputs]:
        """The same tokens again for as many rows of logits as the engine gives at once: a run can be repeated."""
        most, rows = self._decoder.limits.max_logits_rows, inputs.logits_index.shape[1]
        for start in range(0, rows, most):
            yield replace(inputs, logits_index=inputs.logits_index[:, start : start + most])

    def _prefill(self, inputs: DecoderInputs, wanted: Wanted) -> DecoderRun:
        decoder = self._decoder
        run = DecoderRun(
            decoder, decoder.buffers, decoder.prefill_context(), PREFILL_PROFILE, self._cache, inputs
        )
        run.take(inputs)
        run.queue(wanted)
        decoder.device.synchronize()
        return run

    def _decode(self, inputs: DecoderInputs, wanted: Wanted, temperature: float = 1.0) -> DecoderRun:
        step = self._step
        if step is None or step.run.batch != len(inputs.write_index):
            self._drop_step()
            if self._context is None:
                self._context = self._decoder.new_decode_context()
            step = self._step = _Step(
                DecoderRun(self._decoder, self._buffers, self._context, DECODE_PROFILE, self._cache, inputs)
            )
        step.run.take(inputs, temperature)
        step.queue(self._decoder, wanted)
        self._decoder.device.synchronize()
        return step.run

    def _drop_step(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            for graph in step.graphs.values():
                graph.close()


class _Step:
    """A decode step at fixed shapes: run as it is the first time, then captured, then replayed."""

    def __init__(self, run: DecoderRun) -> None:
        self.run = run
        self.graphs: dict[Wanted, Graph] = {}
        self._was_run: set[Wanted] = set()
        self._captures = run.capturable

    def queue(self, decoder: TrtDecoder, wanted: Wanted) -> None:
        """Queues one run."""
        graph = self.graphs.get(wanted)
        # TensorRT prepares itself in the first run after shapes changed, which cannot be captured.
        if graph is None and self._captures and wanted in self._was_run:
            graph = decoder.device.capture(lambda: self.run.queue(wanted))
            if graph is None:
                self._captures = False
                _log.info("decode steps run without a CUDA graph")
            else:
                self.graphs[wanted] = graph
        if graph is None:
            self.run.queue(wanted)
            self._was_run.add(wanted)
        else:
            graph.launch()


def _is_decode(inputs: DecoderInputs) -> bool:
    return bool(inputs.inputs_embeds.shape[1] == 1 and inputs.logits_index.shape[1] == 1)
