"""What a device could do at best: bytes copied and operations done a second, and the operations that a prefill has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neo_edge.checkpoint import EMBEDDING, LM_HEAD, expected_tensors
from neo_edge_runtime.bench.timing import Seconds

if TYPE_CHECKING:
    from neo_edge.config import ModelConfig
    from neo_edge_runtime.tensorrt.device import Device

COPY_BYTES = 1 << 30  # far beyond any GPU's caches
_COPIES = 4  # a call, so that starting it does not count

Readers = Mapping[str, Callable[[], object]]


class Bandwidth(Protocol):
    """Ways to go through memory, which are timed in turn with a decode step."""

    @property
    def readers(self) -> Readers:
        """By name; none where nothing can be measured."""
        ...

    def bandwidth(self, seconds: Mapping[str, Seconds]) -> dict[str, Seconds]:
        """Bytes a second of each reader, fastest first."""
        ...


class UnknownBandwidth:
    """No reader: no package here can copy on the device."""

    @property
    def readers(self) -> Readers:
        """None."""
        return {}

    def bandwidth(self, seconds: Mapping[str, Seconds]) -> dict[str, Seconds]:
        """Nothing."""
        assert not seconds
        return {}


class DeviceCopies:
    """Copies within a device's memory; each byte is read and written, and both count."""

    def __init__(self, device: Device, size_bytes: int = COPY_BYTES) -> None:
        """Takes two blocks of `size_bytes`; close it to give them back.

        Raises:
            MemoryBudgetError: the device has no room for them.
        """
        self._device, self.size_bytes = device, size_bytes
        device.activate()
        self._source = device.allocate(size_bytes, "measuring copies")
        self._target = device.allocate(size_bytes, "measuring copies")
        device.zero(self._source, size_bytes)
        device.synchronize()

    @property
    def readers(self) -> Readers:
        """By name."""
        return {f"copies on {self._device.name}, read and written": self._copy}

    def bandwidth(self, seconds: Mapping[str, Seconds]) -> dict[str, Seconds]:
        """Bytes a second, both ways."""
        rates = {name: 2 * _COPIES * self.size_bytes / values for name, values in seconds.items()}
        return dict(sorted(rates.items(), key=lambda rate: -float(np.median(rate[1]))))

    def close(self) -> None:
        """Gives the blocks back."""
        self._device.activate()
        for address in (self._source, self._target):
            self._device.free(address)

    def _copy(self) -> None:
        self._device.activate()
        for _ in range(_COPIES):
            self._device.copy(self._target, self._source, self.size_bytes)
        self._device.synchronize()


def prefill_operations(config: ModelConfig, tokens: int, past: int) -> int:
    """Multiplications and additions of S tokens behind `past`, with logits of the last one.

    Two for each weight of a matrix and token, and two for each pair of a query and a key (2d numbers) or value (d).
    Norms, rotary embedding and softmax are left out.
    """
    decoder = config.decoder
    weights = sum(
        shape[0] * shape[1]
        for name, shape in expected_tensors(config).items()
        if len(shape) == 2 and name not in (EMBEDDING, LM_HEAD)
    )
    pairs = tokens * past + tokens * (tokens + 1) // 2  # each token sees itself and all before it
    attention = decoder.num_layers * decoder.num_heads * (decoder.key_dim + decoder.head_dim) * pairs
    return 2 * (tokens * weights + attention + decoder.hidden_size * decoder.vocab_size)
