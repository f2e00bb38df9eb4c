"""Imports of packages that only some installations have."""

from __future__ import annotations

import importlib
from types import ModuleType

from neo_edge.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported module.

    Args:
        module: dotted name, such as `onnxruntime`.
        extra: the extra of the `neo-edge` package that brings it.

    Raises:
        MissingExtraError: the module, or a package that it imports itself, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingExtraError(missing, extra) from error
