"""Gives the built pages the order of the index; in Markdown, a table of contents of Sphinx would show as code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_LINK = re.compile(r"\]\(([\w-]+)\.md\)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", _add_order)
    return {"parallel_read_safe": True}


def _add_order(_app: Sphinx, page: str, source: list[str]) -> None:
    if page == "index":
        pages = [*dict.fromkeys(_LINK.findall(source[0])), "reference"]
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
