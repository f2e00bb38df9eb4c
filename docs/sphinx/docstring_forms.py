"""Brings our docstrings into the forms that Sphinx knows, before napoleon reads their sections.

The fields of a dataclass are explained by comments beside them, where a reader of the code looks; here they become an
`Attributes` section. An indented example becomes a literal block.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_BEFORE_NAPOLEON = 400  # Sphinx calls listeners in the order of these numbers; the usual one is 500


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _process, priority=_BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}


def _process(_app: Sphinx, what: str, _name: str, obj: object, _options: object, lines: list[str]) -> None:
    lines[:] = _with_literal_blocks(lines)
    if what in ("property", "attribute", "data"):
        lines[:1] = [f": {line}" for line in lines[:1]]  # else what is before a colon is taken for a type
    if what in ("class", "exception") and isinstance(obj, type) and is_dataclass(obj):
        lines += ["", "Attributes:", *_attributes(obj), ""]


def _attributes(kind: type) -> Iterator[str]:
    for name, annotation, comment in _fields(kind):
        kind_name = annotation.replace("_]", "\\_]")  # an underscore at a word's end would be a link
        yield f"    {name} ({kind_name}){comment and ': '}{comment}"


def _fields(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name, type and comment of each field that the class itself declares."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    lines = source.splitlines()
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first, last = node.lineno, node.end_lineno or node.lineno
            found = [comments[line] for line in range(first, last + 1) if line in comments]
            while not found and lines[first - 2].lstrip().startswith("#"):
                found = [comments[first - 1]]
                first -= 1
            yield node.target.id, ast.unparse(node.annotation), " ".join(found)


def _with_literal_blocks(lines: list[str]) -> list[str]:
    """Marks indented paragraphs that no section opens."""
    marked: list[str] = []
    for line in lines:
        opens = line.startswith("    ") and len(marked) >= 2 and not marked[-1]
        if opens and not marked[-2].startswith(" "):
            marked += ["::", ""]
        marked.append(line)
    return marked
