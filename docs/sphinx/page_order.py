"""Gives the built pages their order; in the Markdown itself, a table of contents of Sphinx would show as code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGES = (
    "getting-started",
    "embedding",
    "prepacked-cache",
    "answers",
    "video",
    "live",
    "robots",
    "bundle",
    "graph-contract",
    "backends",
    "gpu",
    "tensorrt",
    "offline-gpu",
    "jetson",
    "checking-an-export",
    "quality",
    "calibration",
    "quantization",
    "parity",
    "quantization-math",
    "benchmarks",
    "troubleshooting",
    "reference",
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", _add_order)
    return {"parallel_read_safe": True}


def _add_order(_app: Sphinx, page: str, source: list[str]) -> None:
    if page == "index":
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(PAGES) + "\n```\n"
