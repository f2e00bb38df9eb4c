"""A bundle's variant in ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import (
    BackendError,
    CacheError,
    InputError,
    MemoryBudgetError,
    SessionClosedError,
)
from neo_edge.extras import require
from neo_edge.shown import shown
from neo_edge_runtime.cpu.decoder import CpuDecoder
from neo_edge_runtime.graph_check import require_decoder_graph, require_vision_graph
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.ort_decoder import OrtDecoder
from neo_edge_runtime.ort_memory import (
    kernel_traits,
    ort_traits,
    prepacked_load_bytes,
    private_weight_bytes,
)
from neo_edge_runtime.ort_session import open_session, ort_errors, run_vision, session_options
from neo_edge_runtime.prepacked_build import open_prepacked, prepacked_variant
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.token_table import TokenTable, map_token_table

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant
    from neo_edge_runtime.backend import BackendTraits, DecoderState
    from neo_edge_runtime.prepacked import PrepackedVariant
    from neo_edge_runtime.prepacked_build import PrepackedMode

_MOST_THREADS = 64  # where the machine has no more; they spin, so thousands would bring it to a stop
_log = logging.getLogger(__name__)
MODERN_ORT = (1, 25)  # the first ONNX Runtime whose TensorScatter works in place


class OrtBackend:
    """Two ONNX Runtime sessions, vision and decoder, and the embedding table, mapped from its file."""

    def __init__(
        self,
        bundle: Bundle,
        variant_name: str,
        *,
        threads: int | None = None,
        keep_scratch: bool = True,
        prepacked: PrepackedMode = "auto",
        pack_weights: bool = True,
    ) -> None:
        """Loads the graphs.

        Args:
            bundle: an opened bundle.
            variant_name: one of its variants.
            threads: of each operator (`intra_op`); None: the physical cores this process may use. Between
                operators they spin, which is what makes one-token steps quick; operators run one after another.
            keep_scratch: whether the scratch of a prefill (attention scores, chiefly) stays for the next one.
            prepacked: `auto` maps the variant from this machine's prepacked cache where it is there; `build` puts
                it there first, which takes seconds and disk space; `off` leaves the cache alone.
            pack_weights: whether products lay their weights out anew while the graphs are loaded; without it that takes
                less memory, answers take longer, and products of 4 bits meet activations that are not rounded.

        Raises:
            BundleError: no such variant, or its graphs are not those that the manifest describes.
            MissingExtraError: onnxruntime is not installed.
            BackendError: this onnxruntime is too old, or refuses the graphs.
            CacheError: `build`, and the cache cannot be written or trusted.
            MemoryBudgetError: the weights are larger than the free memory.
        """
        variant = bundle.variant(variant_name)
        most = max(_MOST_THREADS, os.cpu_count() or 1)
        if threads is not None and not 1 <= threads <= most:
            raise InputError(
                f"threads is {shown(threads)}; it must be 1 to {most}, or None for the physical cores"
            )
        ort = require("onnxruntime", extra="cpu")
        _require_version(ort, variant_name, variant)
        self.threads = threads or usable_physical_cores()
        self._pack_weights = pack_weights
        self._ort, self._errors = ort, ort_errors(ort)
        self._prepacked = prepacked_variant(ort, bundle, variant_name, prepacked)
        self._keep_scratch = keep_scratch
        self._vision: Any = None
        self._decoder: OrtDecoder | CpuDecoder | None = None
        self._traits = ort_traits(
            bundle.manifest.model,
            variant.ops,
            cache_dtype=variant.cache_dtype,
            embedding_dtype=variant.embedding_dtype,
        )
        self._open(bundle, variant)
        self._table: TokenTable | None = map_token_table(bundle, variant)

    @property
    def traits(self) -> BackendTraits:
        """Facts for memory sums and types."""
        return self._traits

    @property
    def prepacked(self) -> bool:
        """Whether the weights are mapped from the prepacked cache."""
        return self._prepacked is not None

    @property
    def kernels(self) -> str:
        """What computes the decoder: `ONNX Runtime`, or kernels of our own with `AMX` or `AVX-512 VNNI`."""
        return self._decoder.kernels if isinstance(self._decoder, CpuDecoder) else "ONNX Runtime"

    @property
    def token_embedding(self) -> TokenTable:
        """[V, hidden], mapped from the bundle."""
        if self._table is None:
            raise _closed()
        return self._table

    def encode_patches(
        self, patches: npt.NDArray[np.float32], patch_xy: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.generic]:
        """[P, 768] float32 and [P, 2] int32 -> [P/4, hidden]; no patches give no tokens."""
        if self._vision is None:
            raise _closed()
        try:
            return run_vision(self._vision, self._traits, patches, patch_xy)
        except self._errors as error:
            raise BackendError(f"the vision graph failed on {len(patches)} patches: {error}") from error

    def new_state(self, *, batch: int, capacity: int) -> DecoderState:
        """Empty caches in host memory."""
        if self._decoder is None:
            raise _closed()
        return self._decoder.new_state(batch=batch, capacity=capacity)

    def release_scratch(self) -> None:
        """Hands what the last prefill worked in back to the system; the next one takes it anew.

        It needs some memory itself. When that is not there the scratch stays, and who asked finds too little free.
        """
        if self._decoder is None:
            raise _closed()
        try:
            self._decoder.release_scratch()
        except self._errors as error:
            _log.warning("the decoder's scratch memory could not be given back: %s", error)

    def close(self) -> None:
        """Drops both graphs and the table; a session that is still open can only be closed."""
        self._vision = self._decoder = self._table = None

    def _open(self, bundle: Bundle, variant: Variant) -> None:
        """Vision and decoder, from the prepacked cache where there is an entry that loads."""
        _require_free_memory(bundle, variant, self._prepacked)
        if self._prepacked is not None:
            try:
                return self._open_prepacked(bundle, variant, self._prepacked)
            except CacheError as error:
                _log.warning("%s; the bundle is loaded instead", error)
                self._prepacked = None
                _require_free_memory(bundle, variant, None)
        self._vision = self._open_graph(bundle, variant.vision)
        require_vision_graph(self._vision, bundle.manifest.model, variant)
        decoder = self._open_graph(bundle, variant.decoder)
        require_decoder_graph(decoder, bundle.manifest.model, variant)
        self._decoder = self._graph_decoder(decoder, variant)
        return None

    def _open_prepacked(self, bundle: Bundle, variant: Variant, entry: PrepackedVariant) -> None:
        self._vision, *graphs = open_prepacked(self._ort, bundle, variant, entry, threads=self.threads)
        if graphs:
            self._decoder = self._graph_decoder(graphs[0], variant)
        else:
            self._decoder = CpuDecoder(
                entry.folder,
                bundle.manifest.model.decoder,
                threads=self.threads,
                keep_scratch=self._keep_scratch,
            )
            self._traits = kernel_traits(self._traits)

    def _graph_decoder(self, session: Any, variant: Variant) -> OrtDecoder:
        return OrtDecoder(
            self._ort,
            session,
            self._traits.config.decoder,
            cache_dtype=np.dtype(variant.cache_dtype),
            embedding_dtype=self._traits.embedding_dtype,
            portable=variant.ops == "portable",
            errors=self._errors,
            keep_scratch=self._keep_scratch,
        )

    def _open_graph(self, bundle: Bundle, relative: str) -> Any:
        try:
            options = session_options(self._ort, self.threads, pack_weights=self._pack_weights)
            return open_session(self._ort, bundle.path(relative), options)
        except self._errors as error:
            raise BackendError(
                f"onnxruntime {self._ort.__version__} cannot load {relative} of {bundle.root} ({error}): check the "
                "bundle with `neo-edge verify`, or install another onnxruntime"
            ) from error


def runnable_variants(bundle: Bundle) -> list[str]:
    """The bundle's variants whose operators the installed onnxruntime has, in the bundle's order.

    Raises:
        BackendError: there is none.
        MissingExtraError: onnxruntime is not installed.
    """
    modern = ort_version(require("onnxruntime", extra="cpu")) >= MODERN_ORT
    variants = bundle.manifest.variants
    names = [name for name, variant in variants.items() if modern or variant.ops == "portable"]
    if not names:
        raise BackendError(
            f"the bundle {bundle.root} has the variants {', '.join(variants) or 'none'}, which need onnxruntime >= "
            f"{_dotted(MODERN_ORT)}: upgrade it, or export with --ops portable"
        )
    return names


def _require_version(ort: ModuleType, name: str, variant: Variant) -> None:
    if variant.ops == "modern" and ort_version(ort) < MODERN_ORT:
        raise BackendError(
            f"variant {name!r} is of the modern profile and needs onnxruntime >= {_dotted(MODERN_ORT)}; "
            f"{ort.__version__} is installed: upgrade it, or use a portable variant (neo-edge export --ops portable)"
        )


def _require_free_memory(bundle: Bundle, variant: Variant, prepacked: PrepackedVariant | None) -> None:
    if prepacked is None:
        needed = private_weight_bytes(bundle.manifest, variant)
    else:  # the rest is mapped, and the system may take it back
        needed = prepacked_load_bytes(bundle.manifest.model, prepacked.graph_bytes)
    free = available_memory_bytes()
    if free is not None and needed > free:
        raise MemoryBudgetError(
            f"the weights of {bundle.root} ({variant.decoder.rpartition('/')[0]}) need {needed / 2**20:.1f} MiB and "
            f"{free / 2**20:.1f} MiB are free: free memory or use a smaller variant"
        )


def _closed() -> SessionClosedError:
    return SessionClosedError("the model is closed: load the bundle again")


def ort_version(ort: ModuleType) -> tuple[int, int]:
    major, minor = [*str(ort.__version__).split("."), "0"][:2]
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
