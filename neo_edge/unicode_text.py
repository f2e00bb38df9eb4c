"""Text that a tokenizer takes: a `str` that is Unicode."""

from __future__ import annotations

from neo_edge.errors import PromptError
from neo_edge.shown import shown


def require_text(value: object, what: str) -> None:
    """Passes for text.

    Args:
        value: what a caller gave.
        what: its name; the message begins with it.

    Raises:
        PromptError: it is no `str`, or has half of a surrogate pair, which no encoding knows.
    """
    if not isinstance(value, str):
        raise PromptError(f"{what} is {shown(value)}, of type {type(value).__name__}; pass text (str)")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{what} has half of a surrogate pair at character {error.start}, so it is no Unicode: make it from bytes "
            "with errors='replace'"
        ) from error
