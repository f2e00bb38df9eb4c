"""Whether more tokens fit: a sequence, the positions that the model was made for, and what a backend takes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neo_edge.errors import ContextOverflowError, ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo_edge_runtime.backend import BackendTraits
    from neo_edge_runtime.prefill_plan import Chunk


def require_room(
    length: int, new_tokens: int, next_t: int, *, max_tokens: int | None, traits: BackendTraits
) -> None:
    """Passes when `new_tokens` fit behind `length` tokens.

    Args:
        length: tokens in the cache.
        new_tokens: tokens to come.
        next_t: t of a text token behind them.
        max_tokens: most tokens that the sequence may hold; None: no limit of its own.
        traits: of the backend: the model's positions, counted in t, and the context that the backend was built for.

    Raises:
        ContextOverflowError: they do not.
    """
    wanted = length + new_tokens
    if max_tokens is not None and wanted > max_tokens:
        built = max_tokens == traits.max_context_tokens
        larger = (
            f"build engines with --max-context {wanted}"
            if built
            else f"open with max_context_tokens>={wanted}"
        )
        raise ContextOverflowError(
            f"{length} tokens are in the cache and {new_tokens} would follow, {wanted} in all; this session "
            f"holds {max_tokens}: shorten the prompt, rewind, or {larger}"
        )
    max_positions = traits.config.decoder.max_positions
    if next_t > max_positions:
        raise ContextOverflowError(
            f"{new_tokens} tokens behind {length} would reach position {next_t}; the model was made for "
            f"{max_positions}: shorten the prompt or rewind"
        )


def require_chunks(chunks: Sequence[Chunk], traits: BackendTraits) -> None:
    """Passes when the backend takes each chunk at once; only a picture, which stays whole, can be too long.

    Raises:
        ImageError: one is.
    """
    longest, most = max(chunk.end - chunk.start for chunk in chunks), traits.max_chunk_tokens
    if most is not None and longest > most:
        raise ImageError(
            f"a picture gives {longest} visual tokens and stays whole; the engines take {most} tokens at once: pass "
            f"max_pixels={most * traits.config.vision.token_size**2}, or build engines with --max-chunk {longest}"
        )
