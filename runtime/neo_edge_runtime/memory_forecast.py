"""What a model will take at a chosen context, by the sums that sessions check their requests with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neo_edge.errors import InputError
from neo_edge.positions import layout
from neo_edge.shown import shown
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.memory import prefill_need, vision_need
from neo_edge_runtime.prefill_plan import DEFAULT_CHUNK_TOKENS, plan_prefill
from neo_edge_runtime.prompt_assembly import text_only_tokens

if TYPE_CHECKING:
    from neo_edge_runtime.backend import BackendTraits

MAX_CONTEXT_TOKENS = 1 << 24  # beyond any machine's memory; keeps the sum itself small


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes of one session that holds a whole context, prefilled in chunks, at its worst moment."""

    weights: int  # loaded once, whatever the number of sessions
    kv_cache: int
    scratch: int  # the rest of `memory.MemoryNeed`: scores, activations, logits, embeddings, pixels
    kv_cache_per_token: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.scratch


def forecast(
    traits: BackendTraits, *, weights: int, context_tokens: int, picture_tokens: int
) -> MemoryForecast:
    """Sums up a context of text, a picture of `picture_tokens` within it.

    Args:
        traits: the backend's.
        weights: bytes of the loaded weights.
        context_tokens: tokens in the cache; its capacity has room for more, as a session's does.
        picture_tokens: visual tokens of the largest picture, at most a chunk's; fewer where the context is shorter.

    Raises:
        InputError: the context is below 1 token, or beyond `MAX_CONTEXT_TOKENS`.
    """
    if not 1 <= context_tokens <= MAX_CONTEXT_TOKENS:
        raise InputError(f"the context is {shown(context_tokens)} tokens; choose 1 to {MAX_CONTEXT_TOKENS}")
    tokens = text_only_tokens(traits.config)
    chunks = plan_prefill(
        layout([0] * context_tokens, [], tokens),
        chunk_tokens=DEFAULT_CHUNK_TOKENS,
        start_length=0,
        capacity=0,
        max_tokens=None,
    )
    visual = min(picture_tokens, context_tokens)
    need = prefill_need(
        traits,
        chunks=[(chunk.end - chunk.start, chunk.capacity) for chunk in chunks],
        new_tokens=context_tokens,
        logits_rows=1,
    ) + vision_need(traits, patches=visual * traits.config.vision.merge_size**2, visual_tokens=visual)
    return MemoryForecast(
        weights=weights,
        kv_cache=need.kv_cache,
        scratch=need.total - need.kv_cache,
        kv_cache_per_token=cache_bytes(
            traits.config.decoder, batch=1, capacity=1, element_bytes=traits.cache_element_bytes
        ),
    )
