"""A bundle's variant as TensorRT engines on one GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.engines import EngineBackend, EngineLimits
    from neo_edge_runtime.backend import BackendTraits, DecoderState
    from neo_edge_runtime.nvidia_devices import NvidiaDriver
    from neo_edge_runtime.tensorrt.device import Device
    from neo_edge_runtime.tensorrt.installed import Installed
    from neo_edge_runtime.token_table import TokenTable


class TensorRtBackend:
    """Two engines, vision and decoder, their contexts, and the embedding table, mapped from its file."""

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        variant: str | None = None,
        *,
        backend: EngineBackend,
        device_index: int = 0,
        engines: str | None = None,
        installed: Installed | None = None,
        driver: NvidiaDriver | str | None = None,
        open_device: Callable[[int], Device] | None = None,
    ) -> TensorRtBackend:
        """Not built yet."""
        raise NotImplementedError

    limits: EngineLimits

    @property
    def traits(self) -> BackendTraits:
        """Facts for memory sums and types."""
        raise NotImplementedError

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]."""
        raise NotImplementedError

    @property
    def token_embedding(self) -> TokenTable:
        """[V, hidden], mapped from the bundle."""
        raise NotImplementedError

    def new_state(self, *, batch: int, capacity: int) -> DecoderState:
        """Empty caches on the device."""
        raise NotImplementedError

    def release_scratch(self) -> None:
        """Gives the buffers of prefills back."""

    def close(self) -> None:
        """Gives all of it back."""
