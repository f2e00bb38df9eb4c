"""Runs a bundle: pictures and questions in, answers out, without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neo_edge_runtime.answer_data import parse_boxes, parse_choice, parse_number, parse_points
    from neo_edge_runtime.batch_generation import BatchPiece, BatchStream
    from neo_edge_runtime.batch_request import Request
    from neo_edge_runtime.batch_session import BatchSession
    from neo_edge_runtime.chat import Chat
    from neo_edge_runtime.completion import Completion, StopReason, Usage
    from neo_edge_runtime.constraints import Choices, JsonSchema, Regex
    from neo_edge_runtime.coordinates import Box, CoordinateScale, Point
    from neo_edge_runtime.generation import Stream
    from neo_edge_runtime.live.feed import LiveFeed
    from neo_edge_runtime.live.feed_status import FeedEvent, FeedStatus, Reconnect
    from neo_edge_runtime.live.session import LiveSession
    from neo_edge_runtime.live.source import FrameSource, TimedImage, open_source
    from neo_edge_runtime.live.stats import LiveStats, StageTimes
    from neo_edge_runtime.loading import load
    from neo_edge_runtime.model import Model
    from neo_edge_runtime.session import Checkpoint, Session
    from neo_edge_runtime.video import Frame, Video, VideoWarning
    from neo_edge_runtime.video_limits import VideoLimits
    from neo_edge_runtime.video_reading import read_video

__all__ = [
    "BatchPiece",
    "BatchSession",
    "BatchStream",
    "Box",
    "Chat",
    "Checkpoint",
    "Choices",
    "Completion",
    "CoordinateScale",
    "FeedEvent",
    "FeedStatus",
    "Frame",
    "FrameSource",
    "JsonSchema",
    "LiveFeed",
    "LiveSession",
    "LiveStats",
    "Model",
    "Point",
    "Reconnect",
    "Regex",
    "Request",
    "Session",
    "StageTimes",
    "StopReason",
    "Stream",
    "TimedImage",
    "Usage",
    "Video",
    "VideoLimits",
    "VideoWarning",
    "load",
    "open_source",
    "parse_boxes",
    "parse_choice",
    "parse_number",
    "parse_points",
    "read_video",
]

# Looked up when first used: the command line imports this package for its verbs' arguments alone.
_HOMES = {
    "BatchPiece": "batch_generation",
    "BatchSession": "batch_session",
    "BatchStream": "batch_generation",
    "Box": "coordinates",
    "Chat": "chat",
    "Checkpoint": "session",
    "Choices": "constraints",
    "Completion": "completion",
    "CoordinateScale": "coordinates",
    "FeedEvent": "live.feed_status",
    "FeedStatus": "live.feed_status",
    "Frame": "video",
    "FrameSource": "live.source",
    "JsonSchema": "constraints",
    "LiveFeed": "live.feed",
    "LiveSession": "live.session",
    "LiveStats": "live.stats",
    "Model": "model",
    "Point": "coordinates",
    "Reconnect": "live.feed_status",
    "Regex": "constraints",
    "Request": "batch_request",
    "Session": "session",
    "StageTimes": "live.stats",
    "StopReason": "completion",
    "Stream": "generation",
    "TimedImage": "live.source",
    "Usage": "completion",
    "Video": "video",
    "VideoLimits": "video_limits",
    "VideoWarning": "video",
    "load": "loading",
    "open_source": "live.source",
    "parse_boxes": "answer_data",
    "parse_choice": "answer_data",
    "parse_number": "answer_data",
    "parse_points": "answer_data",
    "read_video": "video_reading",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
