"""What engines will need, summed up before a long build: on the GPU that they are for, and here while building."""

from __future__ import annotations

from dataclasses import dataclass

from neo_edge.byte_size import show_bytes
from neo_edge.config import ModelConfig
from neo_edge.engines import EngineLimits
from neo_edge.errors import MemoryBudgetError
from neo_edge.manifest import Manifest, Variant
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.ort_memory import weight_bytes

_HALF, _FLOAT = 2, 4  # bytes
# Peak resident memory of building, measured with TensorRT-RTX 1.7.1 on graphs of 1 to 810 MiB; rounded up.
_BUILD_BASE, _BUILD_FACTOR = 400 << 20, 4.0
# Plans over their graphs' weights, the same measurement: kernels, and layouts that the two profiles do not share.
_PLAN_BASE, _PLAN_FACTOR = 32 << 20, 1.12
_WORKSPACE = 256 << 20  # an allowance: what tactics take beyond the sums is known only to the GPU
_CHOICES = "--max-context, --max-chunk or --max-batch"


@dataclass(frozen=True)
class BuildEstimate:
    """Bytes. The first five are the GPU's while answering, the last two this machine's while building."""

    weights: int  # and kernels
    caches: int  # at max_context and max_batch
    attention_scratch: int  # scores of the largest prefill
    activations: int  # everything else of a step that is not kept
    workspace: int  # of tactics beside that
    build_memory: int  # resident, while building
    plan_files: int  # on the bundle's disk

    @property
    def device_total(self) -> int:
        """What the GPU must have free; less where layers are fused."""
        return self.weights + self.caches + self.attention_scratch + self.activations + self.workspace

    def to_json(self) -> dict[str, int]:
        """By name, in bytes."""
        return {**vars(self), "device_total": self.device_total}

    def __str__(self) -> str:
        on_device = list(vars(self).items())[:5]
        return ", ".join(f"{name.replace('_', ' ')} {show_bytes(size)}" for name, size in on_device)


def estimate_build(manifest: Manifest, variant: Variant, limits: EngineLimits) -> BuildEstimate:
    """Sums up the largest shapes; an upper bound where TensorRT fuses, no measurement of it."""
    decoder = manifest.model.decoder
    element_bytes = _FLOAT if variant.cache_dtype == "float32" else _HALF
    weights = weight_bytes(manifest, variant)
    plans = _PLAN_BASE + int(_PLAN_FACTOR * weights)
    batch, chunk, context = limits.max_batch, limits.max_chunk, limits.max_context
    scores = batch * chunk * (context + chunk)
    masks = decoder.num_heads // decoder.num_kv_heads  # one for each query head that shares a key head
    return BuildEstimate(
        weights=plans,
        caches=cache_bytes(decoder, batch=batch, capacity=context, element_bytes=element_bytes),
        # Scores and weights in the graph's type, the softmax between them in float32.
        attention_scratch=scores * (decoder.num_heads * (2 * element_bytes + _FLOAT) + masks * _FLOAT),
        activations=_activations(manifest.model, limits, element_bytes),
        workspace=_WORKSPACE,
        build_memory=_BUILD_BASE + int(_BUILD_FACTOR * weights),
        plan_files=plans,
    )


def require_memory(
    estimate: BuildEstimate, *, device_bytes: int | None, here_bytes: int | None, shared: bool
) -> None:
    """Refuses what cannot fit.

    Args:
        estimate: of the engines.
        device_bytes: memory of the GPU that they are for; None: unknown.
        here_bytes: what is free in this machine; None: unknown.
        shared: whether both are the same memory, as on a Jetson.

    Raises:
        MemoryBudgetError: with the numbers and what to change.
    """
    needed = max(estimate.device_total, estimate.build_memory) if shared else estimate.device_total
    limit = here_bytes if shared and device_bytes is None else device_bytes
    if limit is not None and needed > limit:
        raise MemoryBudgetError(
            f"these engines need about {show_bytes(needed)} ({estimate}) and the GPU has {show_bytes(limit)}: choose "
            f"smaller {_CHOICES}, or a variant with smaller weights (--precision int8)"
        )
    if here_bytes is not None and estimate.build_memory > here_bytes:
        raise MemoryBudgetError(
            f"building needs about {show_bytes(estimate.build_memory)} here (weights of "
            f"{show_bytes(estimate.weights)}, {_BUILD_FACTOR:g} times while building) and {show_bytes(here_bytes)} are "
            "free: free memory, choose a variant with smaller weights (--precision int8), or build on a larger machine"
        )


def _activations(config: ModelConfig, limits: EngineLimits, element_bytes: int) -> int:
    """The decoder's or the vision graph's, which do not run at once."""
    decoder, vision = config.decoder, config.vision
    rows = limits.max_batch * limits.max_chunk
    # The residual stream is float32; gate, up and their product are the layer's widest.
    layer = rows * (2 * decoder.hidden_size * _FLOAT + 3 * decoder.intermediate_size * element_bytes)
    new_rows = cache_bytes(
        decoder, batch=limits.max_batch, capacity=limits.max_chunk, element_bytes=element_bytes
    )
    logits = limits.max_batch * limits.max_logits_rows * decoder.vocab_size * _FLOAT
    patches = limits.max_patches * (vision.patch_dim + 4 * vision.hidden_size) * _FLOAT
    return max(layer + new_rows + logits, patches)
