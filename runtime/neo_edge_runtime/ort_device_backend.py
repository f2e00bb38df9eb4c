"""A bundle's variant in ONNX Runtime on a device with its own memory: weights and caches stay there."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import BackendError, SessionClosedError
from neo_edge.extras import require
from neo_edge_runtime.graph_check import require_decoder_graph, require_vision_graph
from neo_edge_runtime.ort_backend import runnable_variants
from neo_edge_runtime.ort_device import CudaDevice, unused_provider
from neo_edge_runtime.ort_device_cache import DeviceMemory, PieceMover, append_graph, piece_graph
from neo_edge_runtime.ort_device_decoder import DeviceDecoder, DeviceDecoderState, one_token
from neo_edge_runtime.ort_memory import ort_traits
from neo_edge_runtime.ort_placement import strays
from neo_edge_runtime.ort_session import open_session, ort_errors, run_vision, session_options
from neo_edge_runtime.token_table import TokenTable, map_token_table

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant
    from neo_edge_runtime.backend import BackendTraits, DecoderState
    from neo_edge_runtime.ort_device import OrtDevice

_PROBE_PATCHES = 4  # a group of 2x2
_PROBE_CAPACITY = 16


class OrtDeviceBackend:
    """Two ONNX Runtime sessions on a device, a third that moves caches there, and the embedding table on the host."""

    def __init__(
        self,
        bundle: Bundle,
        variant_name: str,
        *,
        device: OrtDevice | None = None,
        threads: int | None = None,
    ) -> None:
        """Loads the graphs and runs each once, to see where its operators really run.

        ONNX Runtime's own `session.disable_cpu_ep_fallback` is no help: it refuses arithmetic of shapes, too.

        Args:
            bundle: an opened bundle.
            variant_name: one of its variants.
            device: where to run; None: the first GPU.
            threads: of what is left on the host; None: one.

        Raises:
            BundleError: no such variant, or its graphs are not those that the manifest describes.
            MissingExtraError: onnxruntime is not installed.
            BackendError: there is no such device, onnxruntime cannot use it, or lacks operators there.
            MemoryBudgetError: the device has no room.
        """
        variant = bundle.variant(variant_name)
        ort = require("onnxruntime", extra="gpu")
        self.device: OrtDevice = device or CudaDevice()
        self.device.require(ort)
        self.threads = threads or 1
        self._ort, self._errors = ort, ort_errors(ort)
        self._memory = DeviceMemory(ort, self.device)
        config = bundle.manifest.model
        self._traits = replace(
            ort_traits(
                config,
                variant.ops,
                cache_dtype=variant.cache_dtype,
                embedding_dtype=variant.embedding_dtype,
            ),
            widens_cache=False,  # a GPU computes in float16
        )
        self._table: TokenTable | None = map_token_table(bundle, variant)
        with tempfile.TemporaryDirectory(prefix="neo-edge-") as folder:
            self._decoder: DeviceDecoder | None = self._open_decoder(bundle, variant, Path(folder))
            self._vision = self._open_vision(bundle, variant, Path(folder))

    @property
    def traits(self) -> BackendTraits:
        """Facts for memory sums and types; scores are counted as on the CPU, which no GPU has confirmed."""
        return self._traits

    @property
    def token_embedding(self) -> TokenTable:
        """[V, hidden], mapped from the bundle into host memory."""
        if self._table is None:
            raise _closed()
        return self._table

    def free_device_bytes(self) -> int | None:
        """Memory that is free on the device now."""
        return self.device.free_bytes()

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]; no patches give no tokens."""
        if self._vision is None or self._decoder is None:
            raise _closed()
        try:
            return run_vision(self._vision, self._traits, patches, patch_xy)
        except self._errors as error:
            raise self._decoder.failed(f"encoding {len(patches)} patches", error) from error

    def new_state(self, *, batch: int, capacity: int) -> DecoderState:
        """Empty caches on the device."""
        if self._decoder is None:
            raise _closed()
        return DeviceDecoderState.empty(self._decoder, batch=batch, capacity=capacity)

    def release_scratch(self) -> None:
        """Hands what the last prefill worked in back to the device."""
        if self._decoder is None:
            raise _closed()
        DeviceDecoderState.empty(self._decoder, batch=1, capacity=1).release_scratch()

    def close(self) -> None:
        """Drops the graphs and the table; a session that is still open can only be closed."""
        self._vision = self._decoder = self._table = None

    def _open_decoder(self, bundle: Bundle, variant: Variant, folder: Path) -> DeviceDecoder:
        dtype = np.dtype(variant.cache_dtype)
        config = bundle.manifest.model.decoder
        session = self._open(bundle, variant.decoder, folder)
        require_decoder_graph(session, bundle.manifest.model, variant)
        portable = variant.ops == "portable"
        decoder = DeviceDecoder(
            memory=self._memory,
            session=session,
            mover=PieceMover(self._memory, self._session(piece_graph(dtype))),
            appender=self._session(append_graph(dtype, 2 * config.num_layers)) if portable else None,
            config=config,
            cache_dtype=dtype,
            embedding_dtype=self._traits.embedding_dtype,
            errors=self._errors,
        )
        state = DeviceDecoderState.empty(decoder, batch=1, capacity=_PROBE_CAPACITY)
        self._probe(bundle, variant.decoder, session, lambda: state.run(one_token(decoder)))
        state.close()
        return decoder

    def _open_vision(self, bundle: Bundle, variant: Variant, folder: Path) -> Any:
        session = self._open(bundle, variant.vision, folder)
        require_vision_graph(session, bundle.manifest.model, variant)
        feeds = {
            "patches": np.zeros((_PROBE_PATCHES, bundle.manifest.model.vision.patch_dim), np.float32),
            "patch_xy": np.zeros((_PROBE_PATCHES, 2), np.int32),
        }
        self._probe(bundle, variant.vision, session, lambda: session.run(None, feeds))
        return session

    def _open(self, bundle: Bundle, relative: str, folder: Path) -> Any:
        options = session_options(self._ort, self.threads)
        options.enable_profiling = True  # until `_probe` ends it
        options.profile_file_prefix = str(folder / relative.replace("/", "-"))
        try:
            return self._session(bundle.path(relative), options)
        except self._errors as error:
            raise BackendError(
                f"onnxruntime {self._ort.__version__} cannot load {relative} of {bundle.root} on {self.device.name} "
                f"({error}): check the bundle with `neo-edge verify`, free the device's memory, or install another "
                "onnxruntime-gpu"
            ) from error

    def _session(self, graph: Path | bytes, options: Any = None) -> Any:
        session = open_session(
            self._ort,
            graph,
            session_options(self._ort, self.threads) if options is None else options,
            [(self.device.provider, dict(self.device.options))],
        )
        if session.get_providers()[0] != self.device.provider:
            raise unused_provider(self.device, self._ort)
        session.disable_fallback()  # an error in a run would start the session anew on the CPU
        return session

    def _probe(self, bundle: Bundle, relative: str, session: Any, run: Callable[[], object]) -> None:
        """Runs once; raises `BackendError` where that fails, or operators of the model ran on the host."""
        failures: tuple[type[Exception], ...] = (BackendError, *self._errors)
        try:
            run()
        except failures as error:
            session.end_profiling()
            raise BackendError(
                f"{relative} of {bundle.root} does not run on {self.device.provider} of onnxruntime "
                f"{self._ort.__version__} ({error}): {_OTHER_VARIANT}"
            ) from error
        found = strays(Path(session.end_profiling()), self.device.provider)
        if found:
            raise BackendError(
                f"{relative} of {bundle.root}: {self.device.provider} of onnxruntime {self._ort.__version__} lacks "
                f"{', '.join(found[:6])}{' and more' if len(found) > 6 else ''}, and running them on the CPU would "
                f"copy between each step: {_OTHER_VARIANT}"
            )


_OTHER_VARIANT = (
    "use a float variant with portable operators (neo-edge export --ops portable), or a newer onnxruntime-gpu"
)


def open_on_device(
    bundle: Bundle, variant: str | None, *, device: OrtDevice | None = None, threads: int | None = None
) -> tuple[OrtDeviceBackend, str]:
    """The backend and its variant: the one asked for, or the bundle's first whose operators the device has.

    Raises:
        BackendError: none of them runs there; the message has the reason of each.
        BundleError, MissingExtraError, MemoryBudgetError: as `OrtDeviceBackend`.
    """
    if variant is not None:
        return OrtDeviceBackend(bundle, variant, device=device, threads=threads), variant
    (device or CudaDevice()).require(require("onnxruntime", extra="gpu"))
    reasons = []
    for name in runnable_variants(bundle):
        try:
            return OrtDeviceBackend(bundle, name, device=device, threads=threads), name
        except BackendError as error:
            reasons.append(f"{name}: {error}")
    raise BackendError(
        f"no variant of {bundle.root} runs on {(device or CudaDevice()).name}: " + "; ".join(reasons)
    )


def _closed() -> SessionClosedError:
    return SessionClosedError("the model is closed: load the bundle again")
