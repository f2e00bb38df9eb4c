"""Freed memory that the C library keeps, handed back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def trim_heap() -> None:
    """Returns free pages below 32 MiB blocks, which glibc keeps for later; does nothing with another C library."""
    _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], object]:
    if sys.platform != "linux":
        return lambda _: None
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # musl
        return lambda _: None
    return trim
