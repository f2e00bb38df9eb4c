"""How a message shows what was found: whole where it is short, and never a page of digits."""

from __future__ import annotations

_LONGEST = 80  # characters
_LARGEST = 1 << 64


def shown(value: object) -> str:
    """The value as Python writes it, cut to 80 characters; a huge number by its size."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        # Python refuses to write one of 4,300 digits.
        return f"a number of about {round(abs(value).bit_length() * 0.30103)} digits"
    try:
        text = repr(value)
    except ValueError:  # such a number within a list
        return f"a {type(value).__name__} with a number beyond any use"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
