"""Where ONNX Runtime really ran each node, read from its own profile of one run.

An operator that a provider lacks is put on the CPU without an error, and each such node costs two trips over the bus.
Arithmetic of shapes belongs on the CPU: whole numbers, a few of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FEW = 4096  # numbers; masks and everything that carries pixels or activations have more, or are no whole numbers
_WHOLE = {"int32", "int64", "bool"}


def strays(profile: Path, provider: str) -> list[str]:
    """Operators that ran elsewhere and should not have, each once, in the order in which they ran.

    Args:
        profile: what `InferenceSession.end_profiling` wrote.
        provider: where they should run.
    """
    events: list[Mapping[str, Any]] = json.loads(
        profile.read_text(encoding="utf-8")
    )  # the profile's own JSON
    found: dict[str, None] = {}
    for event in events:
        about = event.get("args", {})
        if event.get("cat") == "Node" and about.get("provider", provider) != provider and not _shapes(about):
            found[str(about.get("op_name", event.get("name")))] = None
    return list(found)


def _shapes(about: Mapping[str, Any]) -> bool:
    """Whether a node computed shapes: few whole numbers come out."""
    outputs: Sequence[Mapping[str, Sequence[int]]] = about.get("output_type_shape", [])
    return bool(outputs) and all(
        dtype in _WHOLE and _count(shape) <= _FEW for output in outputs for dtype, shape in output.items()
    )


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
