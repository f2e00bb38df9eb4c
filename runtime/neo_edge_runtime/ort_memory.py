"""What a variant takes in ONNX Runtime, known before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neo_edge_runtime.backend import BackendTraits

if TYPE_CHECKING:
    from neo_edge.config import ModelConfig
    from neo_edge.manifest import CacheDtype, Manifest, OpsProfile, Variant

# Peak scratch of a prefill over one [heads, S, T] float32 buffer, measured with 16 heads of 64, 1,024 tokens at
# once and 512 behind 2,048 (onnxruntime 1.32): one fused operator against scores, softmax and their copies.
_SCORE_BUFFERS = {
    ("modern", "float32"): 1.1,
    ("modern", "float16"): 1.0,
    ("portable", "float32"): 3.5,
    ("portable", "float16"): 4.25,
}


def ort_traits(
    config: ModelConfig, ops: OpsProfile, *, cache_dtype: CacheDtype, embedding_dtype: CacheDtype
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
    )


def weight_bytes(manifest: Manifest, variant: Variant) -> int:
    """Private memory of the loaded weights: their files' size; the embedding table stays in its file."""
    folders = {relative.rpartition("/")[0] for relative in (variant.vision, variant.decoder)}
    return sum(
        entry.size_bytes
        for relative, entry in manifest.files.items()
        if relative.rpartition("/")[0] in folders and relative not in variant.token_embedding.files
    )
