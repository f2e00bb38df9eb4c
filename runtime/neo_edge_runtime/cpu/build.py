"""Puts a decoder on kernels of our own into a directory, and holds it against ONNX Runtime before anyone uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import BrokenPackageError, CacheError, MissingExtraError
from neo_edge.extras import require
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.cpu.compiling import NoKernels, compile_library, find_compiler
from neo_edge_runtime.cpu.decoder import CpuDecoder
from neo_edge_runtime.cpu.packing import pack
from neo_edge_runtime.cpu.recognition import NotRecognized, recognize
from neo_edge_runtime.ort_decoder import OrtDecoder
from neo_edge_runtime.ort_session import open_session, ort_errors, session_options
from neo_edge_runtime.token_table import map_token_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    from neo_edge.bundle import Bundle
    from neo_edge.config import DecoderConfig
    from neo_edge.manifest import Variant
    from neo_edge_runtime.backend import DecoderState

# A sum in another order moves an activation to the next of 255 numbers now and then, and that moves the logits; a
# wrong number anywhere moves them by as much as they differ from each other.
MOST_LOGIT_ERROR = 0.1  # of their standard deviation
_SEQUENCES, _TEXT, _PICTURE, _CAPACITY = 2, 6, 12, 64


def require_tools() -> None:
    """Raises `NoKernels` where what builds them is missing: a C++ compiler, and the package that reads graphs."""
    find_compiler()
    try:
        require("onnx", extra="calibrate")
    except (MissingExtraError, BrokenPackageError) as error:
        raise NoKernels(str(error)) from error


def add_decoder(ort: ModuleType, bundle: Bundle, variant: Variant, folder: Path) -> None:
    """Writes the library, the packed weights and their layout.

    Args:
        ort: the module `onnxruntime`, which computes what they must agree with.
        bundle: an opened bundle whose files are whole.
        variant: one of its variants.
        folder: an empty one, or one with other files.

    Raises:
        NoKernels: this variant gets none here; what was written then is of no use.
        BundleError: the graph's files are damaged.
        OSError: something cannot be written.
    """
    config = bundle.manifest.model.decoder
    require_tools()
    try:
        weights = recognize(require("onnx", extra="calibrate"), bundle.path(variant.decoder), config)
    except NotRecognized as error:
        raise NoKernels(str(error)) from error
    compile_library(folder)
    pack(weights, folder)
    try:
        decoder = CpuDecoder(folder, config, threads=2)
    except CacheError as error:
        # The cause without advice for who finds them in the cache, and without a folder that is about to go.
        why = str(error.__cause__ or error).replace(f"{folder}/", "")
        raise NoKernels(f"what was compiled cannot be used ({why})") from error
    graph = _graph_decoder(ort, bundle, variant)
    _require_agreement(
        decoder.new_state(batch=_SEQUENCES, capacity=_CAPACITY),
        graph.new_state(batch=_SEQUENCES, capacity=_CAPACITY),
        _steps(config, bundle, variant),
    )


def _graph_decoder(ort: ModuleType, bundle: Bundle, variant: Variant) -> OrtDecoder:
    errors = ort_errors(ort)
    try:
        # Weights of 8 bits stay in their file: it runs three times. Those of 4 bits meet rounded activations only if
        # they are packed.
        options = session_options(ort, threads=2, pack_weights=variant.precision == "int4")
        session = open_session(ort, bundle.path(variant.decoder), options)
    except errors as error:
        raise NoKernels(
            f"onnxruntime {ort.__version__} cannot load the graph to compare with ({error})"
        ) from error
    float32 = np.dtype(np.float32)
    return OrtDecoder(
        ort,
        session,
        bundle.manifest.model.decoder,
        cache_dtype=float32,
        embedding_dtype=float32,
        portable=False,
        errors=errors,
    )


def _steps(config: DecoderConfig, bundle: Bundle, variant: Variant) -> Iterator[DecoderInputs]:
    """Text with a picture in it; one token behind it, of which one sequence keeps less; one of a sequence alone."""
    random = np.random.default_rng(0)
    table = map_token_table(bundle, variant)
    tokens = 2 * _TEXT + _PICTURE
    order = np.arange(tokens, dtype=np.int32)
    picture = (order >= _TEXT) & (order < _TEXT + _PICTURE)
    positions = np.stack(
        [np.where(picture, _TEXT, order), np.where(picture, order % 4, 0), np.where(picture, order % 3, 0)]
    )
    visible = np.where(picture, _TEXT + _PICTURE, order + 1)

    def embeddings(*shape: int) -> npt.NDArray[np.float32]:
        return table[random.integers(0, config.vocab_size, shape)].astype(np.float32)

    def both(row: Any) -> npt.NDArray[np.int32]:
        return np.ascontiguousarray(np.broadcast_to(row, (_SEQUENCES, *np.shape(row))), np.int32)

    yield DecoderInputs(
        embeddings(_SEQUENCES, tokens),
        both(positions),
        both(visible),
        both(0),
        both([_TEXT, tokens - 1]),
    )
    for kept in (np.array([tokens, tokens - 2], np.int32), np.array([tokens + 1], np.int32)):
        yield DecoderInputs(
            embeddings(len(kept), 1),
            np.stack([kept, 0 * kept, 0 * kept], axis=1)[..., None],
            kept[:, None] + 1,
            kept,
            np.zeros((len(kept), 1), np.int32),
        )


def _require_agreement(decoder: DecoderState, graph: DecoderState, steps: Iterator[DecoderInputs]) -> None:
    for step in steps:
        ours, wanted = decoder.run(step), graph.run(step)
        error = _relative_error(ours, wanted)
        if not error <= MOST_LOGIT_ERROR:
            raise NoKernels(
                f"their logits differ from the graph's by {error:.3g} of the standard deviation, and "
                f"{MOST_LOGIT_ERROR} is allowed"
            )


def _relative_error(ours: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((ours - wanted) ** 2)) / np.std(wanted))
