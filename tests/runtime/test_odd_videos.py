"""Video files that are broken, hostile or only unusual: a typed error or what is documented, never a hang."""

from __future__ import annotations

import io
import os
import signal
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from video_files import audio_only, number_of, numbered_picture, video

from neo_edge.errors import VideoError
from neo_edge.frame_sampling import FrameSampling
from neo_edge_runtime.video import Video, VideoWarning
from neo_edge_runtime.video_limits import VideoLimits
from neo_edge_runtime.video_reading import read_video

GUARD_S = 300  # a call that takes longer hangs
PICTURES = [numbered_picture(number) for number in range(24)]
FOUR = FrameSampling("count", frames=4)
WHOLE = video(PICTURES)
MATROSKA = video(PICTURES, container="matroska")


@contextmanager
def guard() -> Iterator[None]:
    def out_of_time(_number: int, _frame: object) -> None:
        raise TimeoutError(f"took longer than {GUARD_S} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, GUARD_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def numbers(clip: Video) -> list[int]:
    return [number_of(np.asarray(frame.image)) for frame in clip.frames]


def front(data: bytes) -> bytes:
    """An MP4 with its index before its frames, as it comes from the web."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front.mp4"
        with (
            av.open(io.BytesIO(data)) as read,
            av.open(path, "w", options={"movflags": "faststart"}) as file,
        ):
            stream = file.add_stream_from_template(read.streams.video[0])
            for packet in read.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    file.mux(packet)
        return path.read_bytes()


def endless() -> Any:
    class Endless:
        def read(self, size: int = -1, /) -> bytes:
            return bytes(size if size > 0 else 1 << 20)

    return Endless()


def failing() -> Any:
    class Failing:
        def read(self, size: int = -1, /) -> bytes:
            if size:
                raise OSError("the cable is out")
            return b""

    return Failing()


def closed() -> io.BytesIO:
    file = io.BytesIO(WHOLE)
    file.close()
    return file


def gif() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (40 * number, 0, 0)) for number in range(5)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def huge() -> bytes:
    """An animation that claims to be much larger than it is."""
    data = bytearray(gif())
    data[6:10] = struct.pack("<HH", 12000, 12000)
    return bytes(data)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[5]).save(buffer, "PNG")
    return buffer.getvalue()


def cover_only() -> bytes:
    """Sound with a picture of the album."""
    out = io.BytesIO()
    with av.open(io.BytesIO(audio_only())) as read, av.open(out, "w", format="mp4") as file:
        sound = file.add_stream_from_template(read.streams.audio[0])
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in cover.encode(av.VideoFrame.from_ndarray(PICTURES[0])):
            file.mux(packet)
        for packet in read.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                file.mux(packet)
    return out.getvalue()


def without_times() -> bytes:
    """A bare stream, which knows neither times nor a rate."""
    return video(PICTURES, codec="mpeg4", container="m4v")


def packed_pixels() -> bytes:
    """Four bits a pixel, which FFmpeg stores and does not convert."""
    file = io.BytesIO()
    with av.open(file, "w", format="nut") as container:
        stream = container.add_stream("rawvideo", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb4"
        container.mux(stream.encode(av.VideoFrame(32, 16, "rgb4")))
    return file.getvalue()


def jumping_times() -> bytes:
    """Two recordings in one transport stream: the timestamps begin anew in its middle."""
    half = [video(PICTURES[:12], container="mpegts"), video(PICTURES[12:], container="mpegts")]
    return b"".join(half)


def size_changes() -> bytes:
    return video(PICTURES[:6], container="h264") + video(
        [numbered_picture(number, 160, 96) for number in range(6, 12)], container="h264"
    )


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/hostname\n"
TERMINAL = b"\x1b[2J\x1b[31mhello\x1b[0m\r\n" * 400


@dataclass(frozen=True)
class Refused:
    """What makes a source that is refused, and words of the message."""

    make: Callable[[], Any]
    words: str
    sampling: FrameSampling = FOUR
    limits: VideoLimits | None = None
    error: type[Exception] = VideoError


REFUSED = {
    "no bytes": Refused(lambda: b"", "is empty: give the whole video file"),
    "an MP4 cut before its index": Refused(lambda: WHOLE[:-300], "cannot be read as a video"),
    "the first 20 bytes": Refused(lambda: WHOLE[:20], "cannot be read as a video"),
    "zeros": Refused(lambda: bytes(100_000), "cannot be read as a video"),
    "noise": Refused(lambda: np.random.default_rng(0).bytes(200_000), "cannot be read as a video"),
    "text": Refused(lambda: b"I am a film, believe me.\n" * 2000, "cannot be read as a video"),
    "text for a terminal": Refused(lambda: TERMINAL, "video"),
    "a playlist that names another file": Refused(lambda: PLAYLIST, "video"),
    "a list of files": Refused(lambda: CONCAT, "video"),
    "sound only": Refused(audio_only, r"has no video \(streams: audio\)"),
    "a cover picture only": Refused(cover_only, "has only a cover picture"),
    "an endless file object": Refused(endless, "cannot seek and has more than 1024 MiB"),
    "a file object that fails": Refused(failing, "the cable is out.*open it again"),
    "a closed file object": Refused(closed, "cannot be read.*open it again"),
    "a text file object": Refused(lambda: io.StringIO("x"), "gives str: open the file in binary mode"),
    "pixels that are not converted": Refused(packed_pixels, "32x16 in rgb4 cannot be turned into RGB"),
    "a number": Refused(lambda: 5, "this one is int"),
    "None": Refused(lambda: None, "this one is NoneType"),
    "an address": Refused(lambda: "http://localhost:9/clip.mp4", "cannot be read.*give the path"),
    "a stream's address": Refused(lambda: "rtsp://localhost:9/cam", "cannot be read.*give the path"),
    "FFmpeg's own protocols": Refused(lambda: "concat:/etc/hostname", "cannot be read.*give the path"),
    "NUL in the path": Refused(lambda: "a\0b.mp4", "cannot be read.*give the path"),
    "half a surrogate pair in the path": Refused(lambda: "a\ud800.mp4", "cannot be read.*give the path"),
    "a device": Refused(lambda: "/dev/zero", "is a folder, a pipe or a device"),
    "10,000 frames": Refused(
        lambda: WHOLE, "10000 frames of .* are asked for; at most 1024", FrameSampling("count", frames=10_000)
    ),
    "a rate without end": Refused(
        lambda: WHOLE, "at most 1 ", FrameSampling("uniform", frames=2), VideoLimits(max_frames=1)
    ),
    "a time behind the end": Refused(
        lambda: WHOLE, r"99 s is asked for, and .* ends at 2.40 s", FrameSampling("times", times_s=(0, 99))
    ),
    "longer than allowed": Refused(
        lambda: WHOLE, "or more; at most 1 s are read", limits=VideoLimits(max_duration_s=1)
    ),
    "larger than allowed": Refused(
        lambda: WHOLE, "96x64, 6144 pixels; at most 6143", limits=VideoLimits(max_pixels=6143)
    ),
    "more to decode than allowed": Refused(
        lambda: WHOLE, "bytes of frames would be decoded; at most 9999", limits=VideoLimits(max_decoded_bytes=9999)
    ),
    "a claim of 12000x12000": Refused(huge, "12000x12000, 144000000 pixels; at most 89478485"),
    "a timestamp in the year 9000": Refused(
        lambda: video(
            PICTURES[:2], container="matroska", pts=[0, 10**12], time_base=Fraction(1, 1000)
        ),
        "at most 14400 s are read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_video_is_refused_with_a_cure(name: str) -> None:
    case = REFUSED[name]
    source = case.make()
    with guard(), pytest.raises(case.error, match=f"(?s){case.words}"):
        read_video(source, case.sampling, limits=case.limits)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "empty.mp4").touch()
    for name, words in {
        "": "is a folder, a pipe or a device",
        "pipe": "is a folder, a pipe or a device",
        "missing.mp4": "cannot be read.*give the path of a video file",
        "loop.mp4": "cannot be read.*give the path of a video file",
        "empty.mp4": "is empty",
    }.items():
        with guard(), pytest.raises(VideoError, match=words):
            read_video(tmp_path / name)


@dataclass(frozen=True)
class Unusual:
    """What makes a source that is read, and the numbers on the frames that it gives."""

    make: Callable[[], bytes]
    numbers: list[int] | None  # None: the frames are too small for one
    sampling: FrameSampling = FOUR


HEVC = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}
SPREAD = [4, 9, 14, 19]  # of 24
UNUSUAL = {
    "one frame": Unusual(lambda: video(PICTURES[7:8]), [7, 7, 7, 7]),
    "one frame, both ends": Unusual(lambda: video(PICTURES[7:8]), [7, 7], FrameSampling("uniform", frames=2)),
    "shorter than a second, one a second": Unusual(
        lambda: video(PICTURES[3:6]), [3], FrameSampling("fps", fps=1.0)
    ),
    "a picture": Unusual(png, [5, 5, 5, 5]),
    "an animation": Unusual(gif, None),
    "one pixel": Unusual(
        lambda: video([np.zeros((1, 1, 3), np.uint8)] * 4, codec="png", container="mov", pixel_format="rgb24"),
        None,
    ),
    "odd sizes": Unusual(
        lambda: video(
            [numbered_picture(number, 97, 63) for number in range(24)],
            codec="mjpeg", container="avi", pixel_format="yuvj444p",
        ),
        SPREAD,
    ),
    "ten bits": Unusual(lambda: video(PICTURES, codec="libx265", pixel_format="yuv420p10le", options=HEVC), SPREAD),
    "greys": Unusual(lambda: video(PICTURES, codec="ffv1", container="matroska", pixel_format="gray"), SPREAD),
    "16-bit greys": Unusual(
        lambda: video(PICTURES, codec="ffv1", container="matroska", pixel_format="gray16le"), SPREAD
    ),
    "4:4:4": Unusual(lambda: video(PICTURES, pixel_format="yuv444p"), SPREAD),
    "transparency": Unusual(
        lambda: video(PICTURES, codec="qtrle", container="mov", pixel_format="argb"), SPREAD
    ),
    "interlaced": Unusual(
        lambda: video(PICTURES, codec="mpeg4", container="mp4", options={"flags": "+ildct+ilme", "top": "1"}),
        SPREAD,
    ),
    "sound beside it": Unusual(lambda: video(PICTURES, audio_s=1.0), SPREAD),
    "one frame in 10 seconds": Unusual(
        lambda: video(PICTURES, rate=Fraction(1, 10)), SPREAD
    ),
    "1,000 frames a second": Unusual(lambda: video(PICTURES, rate=1000), SPREAD),
    "timestamps that begin late": Unusual(
        lambda: video(PICTURES, container="mpegts", pts=[900 + number for number in range(24)]), SPREAD
    ),
    "timestamps below zero": Unusual(
        lambda: video(PICTURES, container="matroska", pts=[number - 10 for number in range(24)]), SPREAD
    ),
    "no times and no rate": Unusual(without_times, SPREAD),
    "two recordings in one": Unusual(jumping_times, SPREAD),
    "a size that changes": Unusual(size_changes, [2, 4, 7, 9]),
    "an index before the frames": Unusual(lambda: front(WHOLE), SPREAD),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_only_unusual_is_read(name: str) -> None:
    case = UNUSUAL[name]
    with guard(), warnings.catch_warnings():
        if name in ("no times and no rate", "two recordings in one"):
            warnings.simplefilter("ignore", VideoWarning)
        clip = read_video(case.make(), case.sampling)
    assert clip.frames
    times = [frame.time_s for frame in clip.frames]
    assert times == sorted(times, key=lambda time: time or 0)
    assert clip.duration_s is not None
    assert clip.fps is not None
    assert clip.fps > 0
    if case.numbers is not None:
        assert numbers(clip) == case.numbers


def test_transparency_lies_over_white() -> None:
    glass = np.zeros((16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as file:
        stream: Any = file.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "argb"
        rgba = np.concatenate([glass, np.zeros((16, 16, 1), np.uint8)], 2)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        file.mux(stream.encode(None))
    (frame,) = read_video(buffer.getvalue(), FrameSampling("count", frames=1)).frames
    assert np.asarray(frame.image).min() == 255


# Cut at its half, each file gives the frames that are whole.
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (front(WHOLE), "announces 24 frames|damaged"),
        (front(video(PICTURES, codec="mpeg4")), "announces|damaged"),
    ],
    ids=["H.264", "MPEG-4"],
)
def test_a_broken_tail_gives_the_good_frames_and_a_warning(data: bytes, words: str) -> None:
    cut = data[: len(data) * 6 // 10]
    with guard(), pytest.warns(VideoWarning, match=words):
        clip = read_video(cut, FrameSampling("uniform", frames=30))
    found = numbers(clip)
    assert found[0] == 0
    assert 3 < len(set(found)) < 24
    assert set(found) <= set(range(found[-1] + 1))
    assert len(clip.warnings) == 1
    assert clip.duration_s == pytest.approx(len(set(range(found[-1] + 1))) / 10, abs=0.31)


def test_a_damaged_middle_costs_frames_and_is_said() -> None:
    data = bytearray(video(PICTURES, codec="ffv1", container="matroska", pixel_format="yuv420p", gop=1))
    data[len(data) // 2 : len(data) // 2 + 4000] = np.random.default_rng(1).bytes(4000)
    with guard(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = read_video(bytes(data), FrameSampling("uniform", frames=24))
    good = [number for number in numbers(clip) if number in range(24)]
    assert len(good) >= 12
    assert [warning.category for warning in caught] == [VideoWarning] * len(clip.warnings)


def test_a_matroska_file_cut_anywhere_never_hangs() -> None:
    for length in range(200, len(MATROSKA), len(MATROSKA) // 25):
        with guard(), warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            try:
                clip = read_video(MATROSKA[:length], FOUR)
            except VideoError:
                continue
            assert 1 <= len(clip.frames) <= 4


def test_damaged_bytes_anywhere_never_hang_and_errors_are_typed() -> None:
    rng = np.random.default_rng(5)
    for data in (WHOLE, MATROSKA, front(WHOLE)):
        for _ in range(25):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 8):
                broken[at] = rng.integers(256)
            with guard(), warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)
                with suppress(VideoError):
                    read_video(bytes(broken), FOUR, limits=VideoLimits(max_decoded_bytes=10**9))
