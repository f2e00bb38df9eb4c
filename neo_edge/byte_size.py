"""Amounts of memory and disk as people write and read them."""

from __future__ import annotations

import re

from neo_edge.errors import InputError
from neo_edge.shown import shown

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)(b?)|b)?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`2GiB`, `2G` (the same), `1.5GB` (thousands) or a plain number, in bytes.

    Raises:
        InputError: it is none of these.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{shown(text)} is no amount of memory: write it like 512MiB, 2GiB or 1.5GB")
    number, unit, binary, byte = found.groups()
    base = 1000 if byte and not binary else 1024
    power = 0 if unit is None else "kmgt".index(unit.lower()) + 1
    return int(float(number) * base**power)


def show_bytes(size_bytes: float) -> str:
    """`1.5 GiB`; three figures are enough to compare."""
    size, unit = float(size_bytes), _UNITS[0]
    for larger in _UNITS[1:]:
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.3g} {unit}"
