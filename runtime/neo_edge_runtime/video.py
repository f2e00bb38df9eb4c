"""Frames of a video, each with the time it was seen at."""

from __future__ import annotations

from dataclasses import dataclass

from neo_edge_runtime.image_input import ImageSource


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame; to the model it is an image with a timestamp before it."""

    image: ImageSource  # a path, bytes, an open binary file, a PIL image or an array [H, W, 3]
    time_s: float | None = None  # seconds from the start of the video; None: unknown, no timestamp is written
