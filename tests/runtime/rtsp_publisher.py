"""Sends numbered pictures to an RTSP address; PyAV holds the GIL meanwhile, so it is a process of its own.

python rtsp_publisher.py rtsp://127.0.0.1:PORT/cam
"""

from __future__ import annotations

import contextlib
import sys
import time
from fractions import Fraction
from typing import Any

import av
from video_files import numbered_picture

FRAMES = 30
RATE = 20


def main(address: str) -> None:
    for _ in range(1200):
        file = av.open(address, "w", format="rtsp", options={"rtsp_transport": "tcp"}, timeout=300)
        stream: Any = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        with contextlib.suppress(OSError):  # nobody listens yet
            file.start_encoding()
            break
        time.sleep(0.1)
    for number in range(FRAMES):
        frame = av.VideoFrame.from_ndarray(numbered_picture(number))
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        file.mux(stream.encode(frame))
        time.sleep(1 / RATE)
    file.mux(stream.encode(None))
    file.close()


if __name__ == "__main__":
    main(sys.argv[1])
