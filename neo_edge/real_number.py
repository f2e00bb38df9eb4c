"""Whether a value of the user's is a number."""

from __future__ import annotations

from numbers import Real
from typing import TypeGuard


def is_real(value: object) -> TypeGuard[float]:
    """True for what compares as a float does; `bool` is no number here.

    Whole numbers count, also those beyond any float: compare before you convert.
    """
    return isinstance(value, Real) and not isinstance(value, bool)
