"""A video file played as if it were a camera."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from neo_edge_runtime.live.decoded_frame import DecodedFrame
from neo_edge_runtime.live.pacing import stopped_before
from neo_edge_runtime.video_file import open_video
from neo_edge_runtime.video_limits import VideoLimits

USUAL_FPS = 25.0  # of a file that says none, as in `read_video`


class FileSource:
    """Its frames come at the speed of their times; one that is decoded late comes at once."""

    can_reopen = True  # from its start

    def __init__(self, path: Path, limits: VideoLimits) -> None:
        self.name = str(path)
        self._path, self._limits = path, limits

    def frames(self, stopped: threading.Event) -> Iterator[DecodedFrame]:
        """As `FrameSource.frames`.

        A time that is missing, repeated or jumps back is not believed: the frame follows the one before it at the
        file's rate, and so do those behind it. Packets that cannot be decoded are left out.

        Raises:
            VideoError: no video, or frames that are too large.
            MissingExtraError: PyAV is not installed.
        """
        with open_video(self._path, max_pixels=self._limits.max_pixels) as video:
            stream = video.stream
            step_s = 1 / (float(stream.average_rate or 0) or USUAL_FPS)
            base = float(stream.time_base or 0)
            shift_s, last_s = 0.0, -step_s
            started = time.monotonic()
            packets = iter(video.container.demux(stream))
            while not stopped.is_set():
                try:
                    packet = next(packets, None)
                except video.errors:
                    return  # a broken tail; what was good has been shown
                if packet is None:
                    return
                frames = []
                with contextlib.suppress(*video.errors):
                    frames = stream.codec_context.decode(packet)
                for frame in frames:
                    own_s = last_s + step_s - shift_s if frame.pts is None else frame.pts * base
                    if last_s < 0:
                        shift_s = -own_s
                    time_s = own_s + shift_s
                    if time_s <= last_s:
                        time_s = last_s + step_s
                        shift_s = time_s - own_s
                    last_s = time_s
                    if stopped_before(started + time_s, stopped):
                        return
                    yield DecodedFrame(frame, time_s)
