"""What TensorRT says while it parses and builds: kept for the message when that fails, warnings logged."""

from __future__ import annotations

import logging

from neo_edge_export.tensorrt import builder_api as api
from neo_edge_export.tensorrt.installed import TensorRT

_log = logging.getLogger(__name__)
_KEPT = 20  # the last ones; the cause comes first and what follows from it after


class BuildLog:
    """Collects errors; `logger` is to be handed to TensorRT and kept alive as long as its objects."""

    def __init__(self, module: TensorRT) -> None:
        self.errors: list[str] = []
        self.logger = _logger(module, self)

    @property
    def text(self) -> str:
        """The errors, one a line; empty when there were none."""
        return "\n".join(f"  {line}" for line in self.errors[:_KEPT])

    def add(self, message: str, *, is_error: bool) -> None:
        """Keeps an error, logs anything else."""
        if is_error:
            self.errors.append(message.strip())
        else:
            _log.info("TensorRT: %s", message.strip())


def _logger(module: TensorRT, kept: BuildLog) -> api.ILogger:
    base: type = module.ILogger
    errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Logger(base):  # type: ignore[misc]
        def log(self, severity: object, msg: str) -> None:
            if severity in errors:
                kept.add(msg, is_error=True)
            elif severity == module.ILogger.WARNING:
                kept.add(msg, is_error=False)

    logger: api.ILogger = Logger()
    return logger
