"""A bundle's variant as TensorRT engines on one GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.engine_files import read_plan
from neo_edge.errors import BackendError, SessionClosedError
from neo_edge_runtime.backend import BackendTraits
from neo_edge_runtime.nvidia_devices import NvidiaDriver, nvidia_driver
from neo_edge_runtime.tensorrt.cuda_device import CudaDevice
from neo_edge_runtime.tensorrt.decoder import TrtDecoder
from neo_edge_runtime.tensorrt.engine_choice import choose_engines
from neo_edge_runtime.tensorrt.installed import find_tensorrt
from neo_edge_runtime.tensorrt.state import TrtDecoderState
from neo_edge_runtime.tensorrt.trt_engine import TrtEngine
from neo_edge_runtime.tensorrt.vision import TrtVision
from neo_edge_runtime.token_table import TokenTable, map_token_table

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.engines import EngineBackend, EngineKey, EnginePart, EngineSet
    from neo_edge.patch_grid import PatchGrid
    from neo_edge_runtime.device_frame import DeviceFrame
    from neo_edge_runtime.tensorrt.device import Device
    from neo_edge_runtime.tensorrt.engine import Engine
    from neo_edge_runtime.tensorrt.installed import Installed

OpenEngine = Callable[["Installed", object, str], "Engine"]


class TensorRtBackend:
    """Two engines, vision and decoder, on one device, and the embedding table, mapped from its file."""

    def __init__(
        self, bundle: Bundle, engines: EngineSet, device: Device, *, vision: Engine, decoder: Engine
    ) -> None:
        """Takes engines that are loaded; `open` loads them.

        Args:
            bundle: an opened bundle.
            engines: of the bundle.
            device: where they are; closed with the backend.
            vision: loaded from `engines.vision`.
            decoder: loaded from `engines.decoder`.

        Raises:
            EngineError: an engine is not of the bundle's model.
            MemoryBudgetError: the device has no room for what the engines work in.
        """
        variant, config = bundle.variant(engines.key.variant), bundle.manifest.model
        self.engines, self.limits = engines, engines.key.limits
        self.device = device
        self._traits = BackendTraits(
            config=config,
            embedding_dtype=np.dtype(variant.embedding_dtype),
            cache_element_bytes=np.dtype(variant.cache_dtype).itemsize,
            score_buffers=0.0,
            gives_new_rows=True,
            holds_scratch=True,
            prepares_capacities=True,
            max_context_tokens=self.limits.max_context,
            max_chunk_tokens=self.limits.max_chunk,
            max_sequences=self.limits.max_batch,
        )
        self._table: TokenTable | None = map_token_table(bundle, variant)
        self._vision = TrtVision(
            device,
            vision,
            config,
            max_patches=self.limits.max_patches,
            embedding_dtype=self._traits.embedding_dtype,
            file=engines.vision,
        )
        try:
            self._decoder = TrtDecoder(
                device,
                decoder,
                config.decoder,
                self.limits,
                cache_dtype=np.dtype(variant.cache_dtype),
                embedding_dtype=self._traits.embedding_dtype,
                file=engines.decoder,
            )
        except BaseException:
            self._vision.close()
            raise

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
        open_engine: OpenEngine = TrtEngine,
    ) -> TensorRtBackend:
        """Finds TensorRT, a driver, a GPU and engines that fit them, and loads these.

        Nothing is deserialized before all of that was found and the plans' digests are the manifest's.

        Args:
            bundle: an opened bundle.
            variant: of the bundle; None: that of the engines that fit and hold the longest context.
            backend: which TensorRT.
            device_index: CUDA's number of the GPU.
            engines: folder in `engines/`; None: those that fit and hold the longest context.
            installed: the TensorRT to run with; None: the installed one.
            driver: NVIDIA's, or why there is none; None: ask it.
            open_device: gives the device of a number; None: through CUDA.
            open_engine: gives an engine of a plan's bytes.

        Raises:
            MissingExtraError, BrokenPackageError: TensorRT or cuda-bindings is not there, or does not load.
            BackendError: TensorRT is too old, or there is no driver or no GPU.
            BundleError: the bundle has no such variant.
            EngineError: no engines fit, or a plan is truncated, altered, or of another bundle.
            MemoryBudgetError: the GPU has too little memory.
        """
        installed = find_tensorrt(backend) if installed is None else installed
        found = nvidia_driver() if driver is None else driver
        if isinstance(found, str):
            raise BackendError(
                f"{found}, and {backend} runs on an NVIDIA GPU only: install the driver, start a container with "
                "--gpus all, or use --backend onnxruntime"
            )
        device = CudaDevice(device_index, extra=backend) if open_device is None else open_device(device_index)
        try:
            chosen, wanted = choose_engines(
                bundle,
                backend=backend,
                version=installed.version,
                compute_capability=device.compute_capability,
                driver=found.version,
                variant=variant,
                name=engines,
            )
            vision = _load(bundle, chosen, "vision", wanted, installed, open_engine)
            decoder = _load(bundle, chosen, "decoder", wanted, installed, open_engine)
            return cls(bundle, chosen, device, vision=vision, decoder=decoder)
        except BaseException:
            device.close()
            raise

    @property
    def traits(self) -> BackendTraits:
        """Facts for memory sums and types."""
        return self._traits

    @property
    def token_embedding(self) -> TokenTable:
        """[V, hidden], mapped from the bundle."""
        if self._table is None:
            raise _closed()
        return self._table

    def free_device_bytes(self) -> int:
        """Memory that is free on the device now."""
        if self._table is None:
            raise _closed()
        self.device.activate()
        return self.device.free_bytes()

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]; no patches give no tokens."""
        with self._decoder.alone():
            return self._vision.encode(patches, patch_xy)

    def encode_frame(self, frame: DeviceFrame, grid: PatchGrid) -> npt.NDArray[np.generic]:
        """A frame on the device, resized to a grid there -> [visual tokens, hidden]."""
        with self._decoder.alone():
            return self._vision.encode_frame(frame, grid)

    def new_state(self, *, batch: int, capacity: int) -> TrtDecoderState:
        """Empty caches on the device."""
        return TrtDecoderState.empty(self._decoder, batch=batch, capacity=capacity)

    def release_scratch(self) -> None:
        """Gives the buffers of prefills and pictures back; the next ones take them anew."""
        with self._decoder.alone():
            self._decoder.buffers.release()
            self._vision.buffers.release()

    def close(self) -> None:
        """Gives all of it back; a session that is still open can only be closed. May be called twice."""
        if self._table is None:
            return
        self._table = None
        self._decoder.close(self._vision.close)
        self.device.close()


def _load(
    bundle: Bundle,
    engines: EngineSet,
    part: EnginePart,
    wanted: EngineKey,
    installed: Installed,
    open_engine: OpenEngine,
) -> Engine:
    with read_plan(bundle, engines, part, wanted=wanted) as plan:
        return open_engine(installed, plan, engines.plan(part))


def _closed() -> SessionClosedError:
    return SessionClosedError("the model is closed: load the bundle again")
