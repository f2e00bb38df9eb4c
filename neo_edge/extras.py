"""Imports of packages that only some installations have."""

from __future__ import annotations

import importlib
from types import ModuleType

from neo_edge.errors import BrokenPackageError, MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported module.

    Args:
        module: dotted name, such as `onnxruntime`.
        extra: the extra of the `neo-edge` package that brings it.

    Raises:
        MissingExtraError: the module, or a package that it imports itself, is not installed.
        BrokenPackageError: it is installed, but one of its libraries does not load.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingExtraError(missing, extra) from error
    except ImportError as error:
        # A Ctrl-C while a compiled module starts comes back as an ImportError that it caused.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise BrokenPackageError(module, extra, error) from error
