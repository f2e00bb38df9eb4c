"""Data sources, calibration, scoring and evaluation; needs no torch.

from neo_edge_calibration import Conversation, Turn, calibrate, load_statistics
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neo_edge_calibration.calibrating import CalibrationResult, calibrate
    from neo_edge_calibration.sources.conversation import Conversation, PromptSource, Turn
    from neo_edge_calibration.statistics import CalibrationStatistics, GroupStatistics, load_statistics

__all__ = [
    "CalibrationResult",
    "CalibrationStatistics",
    "Conversation",
    "GroupStatistics",
    "PromptSource",
    "Turn",
    "calibrate",
    "load_statistics",
]

# Where each public name lives; looked up when first used, since calibration brings the runtime along.
_HOMES = {
    "CalibrationResult": "calibrating",
    "CalibrationStatistics": "statistics",
    "Conversation": "sources.conversation",
    "GroupStatistics": "statistics",
    "PromptSource": "sources.conversation",
    "Turn": "sources.conversation",
    "calibrate": "calibrating",
    "load_statistics": "statistics",
}


if not TYPE_CHECKING:  # type checkers would take it for a home of any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'neo_edge_calibration' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"neo_edge_calibration.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
