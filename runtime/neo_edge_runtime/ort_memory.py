"""What a variant takes in ONNX Runtime, known before it is loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.checkpoint import expected_tensors
from neo_edge_runtime.backend import BackendTraits

if TYPE_CHECKING:
    from neo_edge.config import ModelConfig
    from neo_edge.manifest import CacheDtype, FileEntry, Manifest, OpsProfile, Variant

# Peak scratch of a prefill over one [heads, S, T] float32 buffer, measured with 16 heads of 64, 1,024 tokens at
# once and 512 behind 2,048 (onnxruntime 1.32): one fused operator against scores, softmax and their copies.
_SCORE_BUFFERS = {
    ("modern", "float32"): 1.1,
    ("modern", "float16"): 1.0,
    ("portable", "float32"): 3.5,
    ("portable", "float16"): 4.25,
}
_WIDENING = 2  # float16 weights become float32 when they are loaded: the CPU has no product of theirs
_FLOAT32 = 4  # bytes


def ort_traits(
    config: ModelConfig,
    ops: OpsProfile,
    *,
    cache_dtype: CacheDtype,
    embedding_dtype: CacheDtype,
) -> BackendTraits:
    """The facts that memory sums need about a variant of these types, run on the CPU."""
    decoder = config.decoder
    return BackendTraits(
        config=config,
        embedding_dtype=np.dtype(embedding_dtype),
        cache_element_bytes=np.dtype(cache_dtype).itemsize,
        score_buffers=_SCORE_BUFFERS[ops, cache_dtype],
        widens_cache=cache_dtype == "float16",
        mask_buffers=decoder.num_heads // decoder.num_kv_heads if ops == "portable" else 1,
        gives_new_rows=ops == "portable",
    )


def kernel_traits(traits: BackendTraits) -> BackendTraits:
    """The same where the decoder runs on kernels of our own: scores are never all there, and visibility is no mask."""
    return replace(traits, score_buffers=0.0, mask_buffers=0)


def graph_files(manifest: Manifest, variant: Variant) -> dict[str, FileEntry]:
    """The variant's graphs and their weights: what lies in their folders beside the embedding table."""
    folders = {relative.rpartition("/")[0] for relative in (variant.vision, variant.decoder)}
    return {
        relative: entry
        for relative, entry in manifest.files.items()
        if relative.rpartition("/")[0] in folders and relative not in variant.token_embedding.files
    }


def weight_bytes(manifest: Manifest, variant: Variant) -> int:
    """Size of the graphs and their weights on disk; the embedding table is another file."""
    return sum(entry.size_bytes for entry in graph_files(manifest, variant).values())


def private_weight_bytes(manifest: Manifest, variant: Variant) -> int:
    """Private memory of weights that are loaded from the bundle; the embedding table stays in its file."""
    return weight_bytes(manifest, variant) * (_WIDENING if variant.precision == "fp16" else 1)


def prepacked_file_bytes(manifest: Manifest, variant: Variant, *, kernels: bool) -> int:
    """About what the variant takes in the prepacked cache: every weight as it is computed with, and packed.

    With kernels of our own the decoder's weights are there only packed.
    """
    packed = private_weight_bytes(manifest, variant)
    if not kernels:
        return 2 * packed
    files = graph_files(manifest, variant).items()
    return packed + sum(entry.size_bytes for name, entry in files if name.startswith(variant.vision))


def prepacked_load_bytes(config: ModelConfig, file_bytes: int) -> int:
    """Private memory for a moment while loading from the prepacked cache.

    ONNX Runtime packs each weight to compare a digest, one at a time, and drops it: the largest one counts.

    Args:
        config: the model's shape.
        file_bytes: of the cache's files, of which half is packed.
    """
    largest = max(math.prod(shape) for shape in expected_tensors(config).values())
    return min(largest * _FLOAT32, file_bytes // 2)
