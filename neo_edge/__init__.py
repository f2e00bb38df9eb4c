"""neo_edge: takes a NEO-ov checkpoint to an ONNX bundle and answers from it, on a robot too."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neo_edge import errors
    from neo_edge.errors import NeoEdgeError
    from neo_edge.frame_sampling import FrameSampling
    from neo_edge.options import SamplingOptions
    from neo_edge_runtime import (
        Box,
        Choices,
        Completion,
        CoordinateScale,
        Frame,
        JsonSchema,
        LiveFeed,
        Model,
        Point,
        Reconnect,
        Regex,
        Request,
        Video,
        VideoLimits,
        load,
        open_source,
        parse_boxes,
        parse_choice,
        parse_number,
        parse_points,
        read_video,
    )

__all__ = [
    "Box",
    "Choices",
    "Completion",
    "CoordinateScale",
    "Frame",
    "FrameSampling",
    "JsonSchema",
    "LiveFeed",
    "Model",
    "NeoEdgeError",
    "Point",
    "Reconnect",
    "Regex",
    "Request",
    "SamplingOptions",
    "Video",
    "VideoLimits",
    "__version__",
    "errors",
    "load",
    "open_source",
    "parse_boxes",
    "parse_choice",
    "parse_number",
    "parse_points",
    "read_video",
]

# Where each public name lives; looked up when first used, so that importing neo_edge imports no stage.
_HOMES = {
    "Box": "neo_edge_runtime",
    "Choices": "neo_edge_runtime",
    "Completion": "neo_edge_runtime",
    "CoordinateScale": "neo_edge_runtime",
    "Frame": "neo_edge_runtime",
    "FrameSampling": "neo_edge.frame_sampling",
    "JsonSchema": "neo_edge_runtime",
    "LiveFeed": "neo_edge_runtime",
    "Model": "neo_edge_runtime",
    "NeoEdgeError": "neo_edge.errors",
    "Point": "neo_edge_runtime",
    "Reconnect": "neo_edge_runtime",
    "Regex": "neo_edge_runtime",
    "Request": "neo_edge_runtime",
    "SamplingOptions": "neo_edge.options",
    "Video": "neo_edge_runtime",
    "VideoLimits": "neo_edge_runtime",
    "load": "neo_edge_runtime",
    "open_source": "neo_edge_runtime",
    "parse_boxes": "neo_edge_runtime",
    "parse_choice": "neo_edge_runtime",
    "parse_number": "neo_edge_runtime",
    "parse_points": "neo_edge_runtime",
    "read_video": "neo_edge_runtime",
}


if not TYPE_CHECKING:  # type checkers would take it for a home of any name

    def __getattr__(name: str) -> object:
        if name == "errors":
            return importlib.import_module("neo_edge.errors")
        if name not in _HOMES:
            raise AttributeError(f"module 'neo_edge' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
