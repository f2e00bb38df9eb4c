"""Frames out of video files: a frame that was sought is the frame that decoding through gives."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from PIL import Image
from video_files import decoded_through, number_of, numbered_picture, video

from neo_edge.frame_sampling import FrameSampling
from neo_edge_runtime.video import Video
from neo_edge_runtime.video_decoding import decode_frames, plan_runs, to_image
from neo_edge_runtime.video_file import open_video
from neo_edge_runtime.video_index import VideoIndex, index_video
from neo_edge_runtime.video_limits import VideoLimits
from neo_edge_runtime.video_reading import read_video

LIMITS = VideoLimits()
NUMBER = 70
PICTURES = [numbered_picture(number) for number in range(NUMBER)]
THROUGH = 1 << 40
B_FRAMES = {"preset": "veryfast", "bf": "3", "b-adapt": "0", "b-pyramid": "normal", "threads": "1"}
OPEN_GOP = B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}

# name, and how the file is made
FILES = {
    "H.264, B-frames, short GOPs": video(PICTURES, options=B_FRAMES, gop=12),
    "H.264, B-frames, one GOP": video(PICTURES, options=B_FRAMES, gop=1000),
    "H.264, open GOPs": video(PICTURES, options=OPEN_GOP, gop=12),
    "H.264, Matroska": video(PICTURES, options=B_FRAMES, gop=12, container="matroska"),
    "H.264, transport stream": video(PICTURES, options=B_FRAMES, gop=12, container="mpegts"),
    "H.264, no container": video(PICTURES, options=B_FRAMES, gop=12, container="h264"),
    "VP9": video(PICTURES, codec="libvpx-vp9", container="webm", gop=12),
    "VP8": video(PICTURES, codec="libvpx", container="webm", gop=12),
    "MPEG-4, B-frames": video(PICTURES, codec="mpeg4", options={"bf": "2"}, gop=12),
    "MPEG-4, AVI": video(PICTURES, codec="mpeg4", container="avi", gop=12),
    "MJPEG": video(PICTURES, codec="mjpeg", container="avi", pixel_format="yuvj420p"),
}


def frames_of(data: bytes, wanted: list[int], seek_packets: int) -> dict[int, np.ndarray]:
    with open_video(data, max_pixels=LIMITS.max_pixels) as opened:
        index = index_video(opened, LIMITS)
        found = decode_frames(opened, index, wanted, LIMITS, seek_packets=seek_packets)
        return {number: np.asarray(to_image(frame)) for number, frame in found}


def indexed(data: bytes) -> VideoIndex:
    with open_video(data, max_pixels=LIMITS.max_pixels) as opened:
        return index_video(opened, LIMITS)


def numbers(clip: Video) -> list[int]:
    return [number_of(np.asarray(frame.image)) for frame in clip.frames]


@pytest.mark.parametrize("name", FILES)
def test_seeking_gives_the_frames_that_decoding_through_gives(name: str) -> None:
    data = FILES[name]
    expected = decoded_through(data)
    assert [number_of(picture) for picture in expected] == list(range(NUMBER))
    rng = np.random.default_rng(len(name))
    choices = [sorted(rng.choice(NUMBER, count, replace=False).tolist()) for count in (1, 2, 5, 20)]
    for wanted in [*choices, [0], [NUMBER - 1], [0, NUMBER - 1], list(range(NUMBER))]:
        for seek_packets in (1, THROUGH):
            found = frames_of(data, wanted, seek_packets)
            assert sorted(found) == wanted
            for number, picture in found.items():
                np.testing.assert_array_equal(
                    picture, expected[number], f"{number} of {wanted}, {seek_packets}"
                )


@pytest.mark.parametrize("name", FILES)
def test_all_frames_are_listed_with_their_times(name: str) -> None:
    index = indexed(FILES[name])
    assert len(index.times_s) == NUMBER
    # A stream without a container says no rate; FFmpeg takes 25 frames a second.
    assert index.fps == pytest.approx(25.0 if "no container" in name else 10.0, rel=1e-3)
    np.testing.assert_allclose(index.times_s, np.arange(NUMBER) / index.fps)


def test_sparse_frames_are_sought_and_dense_ones_decoded_through() -> None:
    index = indexed(FILES["H.264, B-frames, short GOPs"])
    assert [run.wanted for run in plan_runs(index, [0, 30, 69], seek_packets=12)] == [(0,), (30,), (69,)]
    assert [run.wanted for run in plan_runs(index, [0, 3, 6, 9, 12, 15], seek_packets=12)] == [
        (0, 3, 6, 9, 12, 15)
    ]
    (through,) = plan_runs(index, [0, 30, 69], seek_packets=THROUGH)
    assert through.wanted == (0, 30, 69)
    (one_gop,) = plan_runs(indexed(FILES["H.264, B-frames, one GOP"]), [0, 30, 69])
    assert (one_gop.start, one_gop.wanted) == (0, (0, 30, 69))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (FrameSampling("count", frames=4), [14, 28, 42, 56]),
        (FrameSampling("fps", fps=1.0), [0, 10, 20, 30, 40, 50, 60]),
        (FrameSampling("fps", fps=1.0, max_frames=3), [0, 17, 35]),
        (FrameSampling("uniform", frames=4), [0, 23, 46, 69]),
        (FrameSampling("segments", frames=4), [8, 25, 42, 60]),
        (FrameSampling("times", times_s=(0.0, 0.31, 6.99)), [0, 3, 69]),
        (FrameSampling("count", frames=1), [35]),
    ],
)
def test_each_mode_brings_its_frames_and_times(sampling: FrameSampling, expected: list[int]) -> None:
    clip = read_video(FILES["H.264, B-frames, short GOPs"], sampling)
    assert numbers(clip) == expected
    assert [frame.time_s for frame in clip.frames] == pytest.approx([number / 10 for number in expected])
    assert clip.duration_s == pytest.approx(7.0)
    assert clip.fps == pytest.approx(len(expected) / 7.0)
    assert clip.warnings == ()


def test_more_frames_than_there_are_repeat_as_upstream_does() -> None:
    clip = read_video(video(PICTURES[:3]), FrameSampling("count", frames=5))
    assert numbers(clip) == [0, 1, 1, 2, 2]
    assert clip.frames[1].image is clip.frames[2].image


def test_a_varying_rate_goes_by_its_timestamps() -> None:
    milliseconds = [0, 100, 200, 300, 2300, 2350, 2400, 5000]
    data = video(PICTURES[:8], container="matroska", pts=milliseconds, time_base=Fraction(1, 1000))
    index = indexed(data)
    assert not index.steady
    np.testing.assert_allclose(index.times_s, np.array(milliseconds) / 1000)
    # What is on the screen at 0, 1, 2, 3, 4 and 5 seconds.
    clip = read_video(data, FrameSampling("fps", fps=1.0))
    assert numbers(clip) == [0, 3, 3, 6, 6]
    assert [frame.time_s for frame in clip.frames] == pytest.approx([0, 0.3, 0.3, 2.4, 2.4])
    assert numbers(read_video(data, FrameSampling("times", times_s=(0.25, 2.3, 5.0)))) == [2, 4, 7]
    assert numbers(read_video(data, FrameSampling("count", frames=3))) == [2, 4, 6]


def test_a_steady_rate_is_told_from_a_varying_one_whatever_the_container_rounds() -> None:
    rate = Fraction(30000, 1001)
    index = indexed(video(PICTURES, container="matroska", rate=rate))
    assert index.steady
    assert index.fps == pytest.approx(float(rate), rel=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, -90, 180])
def test_a_rotated_video_stands_upright(degrees: int) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255  # the upper left quarter is white
    frame = read_video(video([picture] * 3, rotation=degrees), FrameSampling("count", frames=1)).frames[0]
    shown = np.asarray(frame.image)
    expected = np.asarray(Image.fromarray(picture).rotate(degrees, expand=True))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 12


def test_a_mirrored_video_is_mirrored() -> None:
    data = bytearray(video(PICTURES[:2]))
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    data[matrix : matrix + 4] = (-0x10000).to_bytes(4, "big", signed=True)
    frame = read_video(bytes(data), FrameSampling("count", frames=1)).frames[0]
    assert number_of(np.asarray(frame.image)[:, ::-1]) == 1


def test_a_path_bytes_and_files_of_all_kinds_give_the_same(tmp_path: Path) -> None:
    data = FILES["H.264, B-frames, short GOPs"]
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)

    class Pipe:
        """Hands out bytes once, in small pieces."""

        def __init__(self) -> None:
            self._file = io.BytesIO(data)

        def read(self, size: int = -1, /) -> bytes:
            return self._file.read(min(size, 1000))

    sampling = FrameSampling("uniform", frames=5)
    expected = [np.asarray(frame.image) for frame in read_video(data, sampling).frames]
    with path.open("rb") as file:
        file.seek(100)
        for source in (path, str(path), bytearray(data), memoryview(data), file, Pipe()):
            found = read_video(source, sampling).frames
            np.testing.assert_array_equal([np.asarray(frame.image) for frame in found], expected)
        assert file.tell() == 100


def test_the_jpeg_round_trip_is_upstreams_and_off_by_default() -> None:
    data = FILES["H.264, B-frames, short GOPs"]
    (plain,) = read_video(data, FrameSampling("count", frames=1)).frames
    (compressed,) = read_video(data, FrameSampling("count", frames=1, jpeg_round_trip=True)).frames
    assert isinstance(plain.image, Image.Image)
    file = io.BytesIO()
    plain.image.save(file, "JPEG")  # Pillow's default quality is 75
    np.testing.assert_array_equal(np.asarray(compressed.image), np.asarray(Image.open(file)))
    assert not np.array_equal(np.asarray(compressed.image), np.asarray(plain.image))


def test_without_a_choice_it_is_one_frame_a_second() -> None:
    assert numbers(read_video(FILES["VP9"])) == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p"])
@pytest.mark.parametrize("width", [96, 54])
def test_a_frame_whose_last_line_comes_first_in_memory_is_not_upside_down(
    pixel_format: str, width: int
) -> None:
    picture = numbered_picture(77, width)
    upright = av.VideoFrame.from_ndarray(picture).reformat(format=pixel_format)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=64, format=upright.format, time_base=Fraction(1, 10))
    flip, sink = graph.add("vflip"), graph.add("buffersink")
    source.link_to(flip)
    flip.link_to(sink)
    graph.configure()
    graph.push(upright)
    flipped = graph.pull()
    assert isinstance(flipped, av.VideoFrame)
    assert flipped.planes[0].line_size < 0  # the filter only turns the order of the lines
    expected = upright.to_ndarray(format="rgb24")
    np.testing.assert_array_equal(np.asarray(to_image(flipped)), expected[::-1])


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system cannot keep a process to one core"
)
def test_one_core_gives_the_frames_that_several_give() -> None:
    clip = FILES["H.264, B-frames, short GOPs"]
    expected = read_video(clip)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        found = read_video(clip)
    finally:
        os.sched_setaffinity(0, allowed)
    assert [frame.time_s for frame in found.frames] == [frame.time_s for frame in expected.frames]
    for ours, theirs in zip(found.frames, expected.frames, strict=True):
        np.testing.assert_array_equal(np.asarray(ours.image), np.asarray(theirs.image))
