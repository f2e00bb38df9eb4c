"""Whether more tokens fit a sequence: the tokens it may hold, and the positions that the model was made for."""

from __future__ import annotations

from neo_edge.errors import ContextOverflowError


def require_room(
    length: int, new_tokens: int, next_t: int, *, max_tokens: int | None, max_positions: int
) -> None:
    """Passes when `new_tokens` fit behind `length` tokens.

    Args:
        length: tokens in the cache.
        new_tokens: tokens to come.
        next_t: t of a text token behind them.
        max_tokens: most tokens that the sequence may hold; None: no limit of its own.
        max_positions: of the model, counted in t.

    Raises:
        ContextOverflowError: they do not.
    """
    wanted = length + new_tokens
    if max_tokens is not None and wanted > max_tokens:
        raise ContextOverflowError(
            f"{length} tokens are in the cache and {new_tokens} would follow, {wanted} in all; this session "
            f"holds {max_tokens}: shorten the prompt, rewind, or open with max_context_tokens>={wanted}"
        )
    if next_t > max_positions:
        raise ContextOverflowError(
            f"{new_tokens} tokens behind {length} would reach position {next_t}; the model was made for "
            f"{max_positions}: shorten the prompt or rewind"
        )
