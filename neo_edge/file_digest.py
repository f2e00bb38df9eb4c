"""sha256 of files that may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def digest_file(path: Path, on_bytes: Callable[[int], object] | None = None) -> str:
    """sha256 in hexadecimal; `on_bytes` is called with the number of bytes just read."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return total.hexdigest()
