"""Runs a bundle: pictures and questions in, answers out, without torch."""

from __future__ import annotations

from neo_edge_runtime.chat import Chat
from neo_edge_runtime.completion import Completion, StopReason, Usage
from neo_edge_runtime.generation import Stream
from neo_edge_runtime.model import Model, load
from neo_edge_runtime.session import Checkpoint, Session
from neo_edge_runtime.video import Frame

__all__ = [
    "Chat",
    "Checkpoint",
    "Completion",
    "Frame",
    "Model",
    "Session",
    "StopReason",
    "Stream",
    "Usage",
    "load",
]
