"""Tiny video files, made with PyAV where they are needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
BIT_SIDE = 8  # pixels of one bit of a frame's number: survives any codec


def numbered_picture(number: int, width: int = 96, height: int = 64) -> Picture:
    """[height, width, 3]: the number in ten black and white squares, over a field that moves with it."""
    across = np.arange(width)[None] * 2 + np.arange(height)[:, None] + number * 5
    picture = np.repeat((across % 200)[:, :, None], 3, 2).astype(np.uint8)
    for bit in range(10):
        left = bit * BIT_SIDE
        picture[:BIT_SIDE, left : left + BIT_SIDE] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: Picture) -> int:
    """Reads it back."""
    half = BIT_SIDE // 2
    return sum(int(picture[half, bit * BIT_SIDE + half].mean() > 127) << bit for bit in range(10))


def video(
    pictures: Sequence[Picture],
    *,
    codec: str = "libx264",
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    rate: int | Fraction = 10,
    gop: int = 12,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio_s: float = 0.0,
) -> bytes:
    """The pictures as a file.

    Args:
        pictures: [H, W, 3] RGB, one a frame.
        codec: FFmpeg's name of an encoder.
        container: FFmpeg's name of a format.
        pixel_format: of the encoded frames.
        rate: frames per second.
        gop: frames between two keys.
        pts: of each frame, in units of `time_base`; None: one after the other at `rate`.
        time_base: None: one frame.
        options: of the encoder; None: quick ones.
        rotation: degrees counterclockwise by which a player turns the picture.
        audio_s: seconds of silence beside it.
    """
    buffer = io.BytesIO()
    height, width = pictures[0].shape[:2]
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.options = _QUICK.get(codec, {}) if options is None else options
        stream.gop_size = gop
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        sound: Any = file.add_stream("aac", rate=8000) if audio_s else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = time_base or 1 / Fraction(rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if sound is not None:
            _silence(file, sound, audio_s)
    return buffer.getvalue()


def audio_only(seconds: float = 0.5) -> bytes:
    """A file with sound and no picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        _silence(file, file.add_stream("aac", rate=8000), seconds)
    return buffer.getvalue()


def decoded_through(data: bytes) -> list[Picture]:
    """All frames of a file, by PyAV alone."""
    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


_QUICK = {
    "libx264": {"preset": "ultrafast", "crf": "20", "bf": "2", "threads": "1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
}


def _silence(file: Any, stream: Any, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
