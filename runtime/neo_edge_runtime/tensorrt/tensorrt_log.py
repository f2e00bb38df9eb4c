"""What TensorRT says while it builds and runs: errors are kept for the message of what fails, warnings logged."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from neo_edge_runtime.tensorrt import runtime_api as api

_log = logging.getLogger(__name__)
_KEPT = 40  # lines


class LoggingModule(Protocol):
    """TensorRT's module, as far as this needs it."""

    ILogger: type[api.ILogger]


class TensorRtLog:
    """Collects errors; `logger` is to be handed to TensorRT and kept alive as long as its objects."""

    def __init__(self, module: LoggingModule) -> None:
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(module, self)

    @property
    def text(self) -> str:
        """The last errors, one a line."""
        return "\n".join(f"  {line}" for line in list(self.errors)) or "  it does not say why"

    def add(self, message: str, *, is_error: bool) -> None:
        """Keeps an error, logs anything else."""
        if is_error:
            self.errors.append(message.strip())
        else:
            _log.info("TensorRT: %s", message.strip())


def _logger(module: LoggingModule, kept: TensorRtLog) -> api.ILogger:
    base: type = module.ILogger
    errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Logger(base):  # type: ignore[misc] # known where TensorRT is imported
        def log(self, severity: object, msg: str) -> None:
            if severity in errors:
                kept.add(msg, is_error=True)
            elif severity == module.ILogger.WARNING:
                kept.add(msg, is_error=False)

    logger: api.ILogger = Logger()
    return logger
