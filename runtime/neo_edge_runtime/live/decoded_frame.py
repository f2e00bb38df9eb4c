"""A frame that FFmpeg has decoded and that becomes a picture only if somebody looks at it."""

from __future__ import annotations

from typing import Any

from PIL import Image

from neo_edge_runtime.video_decoding import to_image


class DecodedFrame:
    """PyAV's frame with its time. Of a camera's 30 a second most are never looked at."""

    def __init__(self, frame: Any, time_s: float | None) -> None:
        self.time_s = time_s
        self._frame = frame

    @property
    def image(self) -> Image.Image:
        """RGB, upright.

        Raises:
            VideoError: FFmpeg cannot convert it.
        """
        return to_image(self._frame)
