"""Writes `.safetensors` files, broken ones included, independently of the reader under test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], *, header: str | None = None) -> None:
    """Writes arrays (uint16 stands for bfloat16); `header` replaces the right one."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = (json.dumps(entries) if header is None else header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
