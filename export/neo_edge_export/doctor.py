"""What this installation can export, for `neo-edge doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from neo_edge.finding import Finding, extra_finding

_PYTHON = (3, 11)  # the first with an ONNX Runtime that runs what is exported


def findings() -> Iterable[Finding]:
    """Whether checkpoints can be exported here."""
    found = extra_finding("export checkpoints", "export")
    if sys.version_info < _PYTHON:
        wanted = ".".join(map(str, _PYTHON))
        found = Finding(
            found.what, False, f"Python {sys.version.split()[0]}", f"use Python {wanted} or newer to export"
        )
    yield found
