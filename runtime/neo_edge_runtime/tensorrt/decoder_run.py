"""One shape of a decoder run: its arrays on both sides, bound to a context, and the steps from inputs to logits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from neo_edge_runtime.backend import MOST_CANDIDATES, Candidates, DecoderInputs
from neo_edge_runtime.tensorrt.buffers import Buffers, PackedArrays
from neo_edge_runtime.tensorrt.decoder import new_name
from neo_edge_runtime.tensorrt.engine import bind

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge_runtime.tensorrt.decoder import TrtDecoder
    from neo_edge_runtime.tensorrt.device import Tensor
    from neo_edge_runtime.tensorrt.device_cache import DeviceCache
    from neo_edge_runtime.tensorrt.engine import Context

Wanted = Literal["logits", "likeliest", "candidates"]  # what comes back of a run
INPUT_NAMES = ("inputs_embeds", "position_ids", "visible_length", "write_index", "logits_index")


class DecoderRun:
    """Runs B sequences of S tokens with N rows of logits, as often as the caches stay where they are."""

    def __init__(
        self,
        decoder: TrtDecoder,
        buffers: Buffers,
        context: Context,
        profile: int,
        cache: DeviceCache,
        like: DecoderInputs,
    ) -> None:
        """Takes memory and binds it.

        Raises:
            BackendError: what would be bound does not fit the engine.
            MemoryBudgetError: the device has no room.
        """
        self._decoder, self._context, self._cache = decoder, context, cache
        device, config = decoder.device, decoder.config
        self._kernels = device.kernels
        self.batch, self.new_tokens = like.inputs_embeds.shape[:2]
        rows = like.logits_index.shape[1]
        arrays = {name: (getattr(like, name).shape, getattr(like, name).dtype) for name in INPUT_NAMES}
        table = np.zeros((2 * config.num_layers, 3), np.uint64)
        self._inputs = PackedArrays(
            device,
            buffers,
            "inputs",
            {**arrays, "table": (table.shape, table.dtype), "temperature": ((1,), np.float32)},
        )
        self._outputs = PackedArrays(
            device, buffers, "logits", {"logits": ((self.batch, rows, config.vocab_size), np.float32)}
        )
        self._found = PackedArrays(
            device, buffers, "likeliest_tokens", {"found": ((self.batch * rows, 2), np.int32)}
        )
        # A small vocabulary keeps half, so that there is a keep-th largest logit.
        kept = (min(MOST_CANDIDATES, max(1, config.vocab_size // 2)),)
        self._candidates = PackedArrays(
            device,
            buffers,
            "candidates",
            {"tokens": (kept, np.int32), "values": (kept, np.float32), "summary": ((4,), np.float32)},
        )
        caches = cache.of_first(self.batch)
        self._new = {
            name: buffers.tensor(
                new_name(name), (*old.shape[:2], self.new_tokens, old.shape[3]), decoder.cache_dtype
            )
            for name, old in caches.items()
        }
        for entry, (name, old) in zip(table, caches.items(), strict=True):
            entry[:] = self._new[name].address, old.address, old.shape[3] * old.dtype.itemsize // 4
        self._inputs.host["table"][...] = table
        tensors: dict[str, Tensor] = {name: self._inputs.tensors[name] for name in INPUT_NAMES}
        tensors.update(caches)
        tensors.update({new_name(name): new for name, new in self._new.items()})
        tensors.update(self._outputs.tensors)
        bind(decoder.engine, context, profile, tensors)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """[B, N, V] of the last run that asked for them, in page-locked memory."""
        return self._outputs.host["logits"]

    @property
    def likeliest(self) -> npt.NDArray[np.int32]:
        """[B * N, 2] of the last run that asked for it: token, and whether all logits are finite."""
        if self._kernels is not None:
            return self._found.host["found"]
        rows = self.logits.reshape(-1, self.logits.shape[-1])
        return np.stack([rows.argmax(1), np.isfinite(rows).all(1)], axis=1).astype(np.int32)

    @property
    def candidates(self) -> Candidates:
        """Of the first row of the last run that asked for them; none of it where there are no programs for it."""
        vocab = self.logits.shape[-1]
        if self._kernels is None:
            finite = bool(np.isfinite(self.logits[0, 0]).all())
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32), math.inf, math.nan, 1.0, finite)
        host = self._candidates.host
        count, below, total, finite = host["summary"].tolist()
        tokens = host["tokens"][: int(count)].astype(np.int64)
        order = tokens.argsort()
        # A thread adds a number of every 1024, and the threads' sums are added in pairs: each addition, and each
        # exponential, rounds by no more than a few units of the 24th bit.
        error = (vocab / 1024 + 64) * 2.0**-23
        return Candidates(
            tokens[order], host["values"][: int(count)][order], below, total, error, bool(finite)
        )

    @property
    def capturable(self) -> bool:
        """Whether all that is queued reads its numbers on the device; else each step has cache places of its own."""
        return self._kernels is not None

    def take(self, inputs: DecoderInputs, temperature: float = 1.0) -> None:
        """Copies the next run's inputs to where the device reads them; `temperature` is that of candidates."""
        for name in INPUT_NAMES:
            self._inputs.host[name][...] = getattr(inputs, name)
        self._inputs.host["temperature"][...] = temperature

    def fetch_logits(self) -> None:
        """Queues the copy of the last run's logits."""
        self._outputs.download()

    def queue(self, wanted: Wanted) -> None:
        """Queues everything from the inputs' copy to that of what is wanted; the caches are longer then."""
        device, kernels = self._decoder.device, self._kernels
        self._inputs.upload()
        self._context.execute(device.stream)
        if kernels is None:
            for row, start in enumerate(self._inputs.host["write_index"].tolist()):
                self._cache.append(row, start, self._new)
        else:
            kernels.append(
                self._inputs.tensors["table"],
                self._inputs.tensors["write_index"],
                tensors=len(self._new),
                batch=self.batch,
                heads=self._decoder.config.num_kv_heads,
                new_tokens=self.new_tokens,
                capacity=self._cache.capacity,
            )
        logits = self._outputs.tensors["logits"]
        if kernels is None or wanted == "logits":
            self._outputs.download()
        elif wanted == "likeliest":
            flat = replace(logits, shape=(self.batch * logits.shape[1], logits.shape[2]))
            kernels.likeliest(flat, self._found.tensors["found"])
            self._found.download()
        else:
            first = replace(logits, shape=logits.shape[2:])
            kernels.candidates(first, self._inputs.tensors["temperature"], **self._candidates.tensors)
            self._candidates.download()
