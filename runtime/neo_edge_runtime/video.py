"""Frames of a video, each with the time it was seen at; and what is known of the whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Union

from neo_edge_runtime.image_input import BinaryReader, ImageSource


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame; to the model it is an image with a timestamp before it."""

    image: ImageSource  # a path, bytes, an open binary file, a PIL image or an array [H, W, 3]
    time_s: float | None = None  # seconds from the start of the video; None: unknown, no timestamp is written


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of one video, ready to be asked about; `neo_edge.read_video` makes it from a file."""

    frames: tuple[Frame, ...]  # in the order of their times
    duration_s: float | None = (
        None  # of the whole video; with fps the prompt gets the sentence about the whole
    )
    fps: float | None = None  # frames per second at which the frames were chosen
    warnings: tuple[str, ...] = ()  # what was wrong with the file; its good frames are here all the same


class VideoWarning(UserWarning):
    """A video file is damaged, and what could be read of it is used."""


VideoSource = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryReader, Video]
"""A path, the bytes of a file, an open binary file, or a `Video`."""
