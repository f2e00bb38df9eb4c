"""Chosen frames out of a video file, seeking over what is not needed.

A frame is named by its timestamp, so that one that was sought is the one that decoding through would give.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neo_edge.errors import VideoError
from neo_edge.extras import require
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.video_file import pixel_error
from neo_edge_runtime.video_index import require_decodable

if TYPE_CHECKING:
    from neo_edge_runtime.video_file import OpenVideo
    from neo_edge_runtime.video_index import VideoIndex
    from neo_edge_runtime.video_limits import VideoLimits

SEEK_PACKETS = 12
"""A seek pays where it passes over at least so many packets; measured by tests/evidence/video_seeking.py."""


@dataclass(frozen=True)
class Run:
    """Packets that are decoded without a break."""

    key: int | None  # number of the key packet that is sought; None: the file is opened anew
    start: int  # position of the first packet
    stop: int  # position of the last packet that is needed
    wanted: tuple[int, ...]  # frames that come of it


def plan_runs(index: VideoIndex, wanted: Sequence[int], *, seek_packets: int = SEEK_PACKETS) -> list[Run]:
    """How to get at the frames: decode on from one to the next, or seek where that passes over enough packets.

    Args:
        index: of the file.
        wanted: frames, in order, each once.
        seek_packets: how many a seek must pass over; a huge number decodes through.
    """
    if index.pts is None:
        return [Run(None, 0, int(wanted[-1]), tuple(wanted))]
    key_positions = np.array([key[0] for key in index.keys])
    key_pts = np.maximum.accumulate([key[1] for key in index.keys])
    runs: list[Run] = []
    key, start, stop = 0, 0, 0
    members: list[int] = []
    for frame in wanted:
        at = int(index.position[frame])
        # The last key that is shown before the frame and decoded before it.
        before = (
            min(
                int(np.searchsorted(key_pts, index.pts[frame], side="right")),
                int(np.searchsorted(key_positions, at, side="right")),
            )
            - 1
        )
        if before >= 0 and key_positions[before] - stop >= seek_packets:
            if members:
                runs.append(Run(key, start, stop, tuple(members)))
            key, start, members = before, int(key_positions[before]), []
            stop = start
        members.append(frame)
        stop = max(stop, at)
    runs.append(Run(key, start, stop, tuple(members)))
    return runs


def decode_frames(
    video: OpenVideo,
    index: VideoIndex,
    wanted: Sequence[int],
    limits: VideoLimits,
    *,
    seek_packets: int = SEEK_PACKETS,
) -> Iterator[tuple[int, Any]]:
    """Each wanted frame with its number, as PyAV's VideoFrame; those that cannot be decoded are left out.

    Mostly in order; a frame that a seek did not bring comes at the end.

    Args:
        video: the file that `index` is of.
        index: its frames.
        wanted: frames, in order, each once.
        limits: of this request.
        seek_packets: as `plan_runs`.

    Raises:
        VideoError: more would be decoded, or larger frames, than the limits allow.
    """
    runs = plan_runs(index, wanted, seek_packets=seek_packets)
    missing = set(wanted)
    packets = 0
    while missing and runs:
        packets += sum(run.stop - run.start + 1 for run in runs)
        codec = video.stream.codec_context
        require_decodable(video.name, packets * 3 * codec.width * codec.height, limits)
        for run in runs:
            for number, frame in _decode_run(video, index, run):
                if frame.width * frame.height > limits.max_pixels:
                    raise pixel_error(video.name, frame.width, frame.height, limits.max_pixels)
                # The first frames behind a key that is not clean (open GOP, gradual refresh) are damaged.
                if number in missing and not (frame.is_corrupt and run.key):
                    missing.remove(number)
                    yield number, frame
        # A container may seek to another place than its packets say; decoding through depends on nothing.
        again = any(run.key is not None for run in runs) and missing
        rest = tuple(sorted(missing))
        runs = [Run(None, 0, int(index.position[list(rest)].max()), rest)] if again else []


def to_image(frame: Any) -> Image.Image:
    """RGB, upright as the file's display matrix says, transparency over white; for any thread.

    Raises:
        VideoError: FFmpeg cannot convert it.
    """
    try:
        if any(component.is_alpha for component in frame.format.components):
            image = load_image(Image.fromarray(_reformatted(frame, "rgba").to_ndarray()))
        else:
            image = _picture(_reformatted(frame, "rgb24"))
    except (ValueError, OSError, MemoryError) as error:
        raise VideoError(
            f"a frame of {frame.width}x{frame.height} in {frame.format.name} cannot be turned into RGB ({error}): "
            "give the video in another pixel format"
        ) from error
    for turn in _turns(frame):
        image = image.transpose(turn)
    return image


_own = threading.local()


def _reformatted(frame: Any, pixel_format: str) -> Any:
    """As `frame.reformat`, by a converter that this thread keeps: making one takes as long as using it."""
    if not hasattr(_own, "converter"):
        _own.converter = require("av.video.reformatter", extra="video").VideoReformatter()
    return _own.converter.reformat(frame, format=pixel_format)


def _picture(frame: Any) -> Image.Image:
    """Of an rgb24 frame; PyAV's own `to_image` copies it line by line and takes two to eight times as long."""
    plane = frame.planes[0]
    upward = plane.line_size < 0  # the last line comes first
    layout = ("raw", "RGB", abs(plane.line_size), -1 if upward else 1)
    return Image.frombytes("RGB", (frame.width, frame.height), plane, *layout)


def _decode_run(video: OpenVideo, index: VideoIndex, run: Run) -> Iterator[tuple[int, Any]]:
    """Frames of one run as they come; ends early where the file does."""
    pts = index.pts
    names = {} if pts is None else {int(pts[number]): number for number in run.wanted}
    last = None if pts is None else int(pts[max(run.wanted, key=lambda number: index.position[number])])
    left = set(run.wanted)
    if run.key is None:
        video.rewind()
    codec = video.stream.codec_context
    shown = 0
    try:
        packets = (
            video.container.demux(video.stream) if run.key is None else _sought(video, index.keys[run.key])
        )
        for packet in packets:
            if names:
                # Frames that no other frame needs are skipped; the decoder says which.
                codec.skip_frame = "DEFAULT" if packet.pts in names else "NONREF"
            ended = last is not None and packet.pts == last
            # The decoder holds frames back for others to come; at the end, which None is, it hands them out.
            for frame in _decoded(video, (packet, None) if ended else (packet,)):
                number = names.get(frame.pts) if names else shown
                shown += 1
                if number in left:
                    left.remove(number)
                    yield number, frame
            if ended or not left:
                return
    except video.errors:
        return


def _decoded(video: OpenVideo, packets: Sequence[Any]) -> list[Any]:
    """Frames that come of the packets; those of a broken packet are missing."""
    frames: list[Any] = []
    for packet in packets:
        with contextlib.suppress(*video.errors):
            frames += video.stream.codec_context.decode(packet)
    return frames


def _sought(video: OpenVideo, key: tuple[int, int, int]) -> Iterator[Any]:
    """Packets from the key on, or from one before it."""
    _, pts, dts = key
    # Some containers seek by the time of showing and some by the time of decoding, which is earlier.
    for at in (pts, pts if dts is None else min(pts, dts)):
        video.container.seek(at, stream=video.stream, backward=True)
        packets = iter(video.container.demux(video.stream))
        first = next(packets, None)
        if first is not None and first.is_keyframe and first.pts is not None and first.pts <= pts:
            return itertools.chain([first], packets)
    return iter(())


_TURNS = {
    # (swapped, mirrored across, mirrored down) of the display matrix
    (False, True, False): (Image.Transpose.FLIP_LEFT_RIGHT,),
    (False, False, True): (Image.Transpose.FLIP_TOP_BOTTOM,),
    (False, True, True): (Image.Transpose.ROTATE_180,),
    (True, False, False): (Image.Transpose.TRANSPOSE,),
    (True, True, False): (Image.Transpose.ROTATE_270,),
    (True, False, True): (Image.Transpose.ROTATE_90,),
    (True, True, True): (Image.Transpose.TRANSVERSE,),
}


def _turns(frame: Any) -> tuple[Image.Transpose, ...]:
    """What brings the picture upright, from the side data of the frame; turns that are no quarter are not done."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return ()
    # 3x3 in 16.16 fixed point: shown x = x m[0] + y m[3], shown y = x m[1] + y m[4].
    matrix = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if a and d and not (b or c):
        return _TURNS.get((False, a < 0, d < 0), ())
    if b and c and not (a or d):
        return _TURNS[True, c < 0, b < 0]
    return ()
