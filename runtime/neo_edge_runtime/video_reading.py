"""A video file -> the frames that are asked about, each with its time."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PIL import Image

from neo_edge.errors import MemoryBudgetError, VideoError
from neo_edge.frame_sampling import FrameSampling
from neo_edge.protocols import get_protocol
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.processors import usable_physical_cores
from neo_edge_runtime.video import Frame, Video, VideoWarning
from neo_edge_runtime.video_decoding import decode_frames, to_image
from neo_edge_runtime.video_file import open_video
from neo_edge_runtime.video_index import index_video
from neo_edge_runtime.video_limits import VideoLimits

if TYPE_CHECKING:
    from neo_edge_runtime.image_input import BinaryReader
    from neo_edge_runtime.video_file import OpenVideo
    from neo_edge_runtime.video_index import VideoIndex

_Made = TypeVar("_Made")
MOST_WORKERS = 4  # decoding itself has threads, and seldom keeps more of these busy
_JPEG_QUALITY = 75  # Pillow's default, which upstream's frames are saved with


@dataclass(frozen=True)
class ReadFrames(Generic[_Made]):
    """What became of the chosen frames."""

    frames: tuple[_Made, ...]
    times_s: tuple[float, ...]  # of each frame
    duration_s: float  # of the whole video
    fps: float  # frames per second at which they were chosen, as upstream counts it: frames through duration
    warnings: tuple[str, ...]


def read_video(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader,
    sampling: FrameSampling | None = None,
    *,
    limits: VideoLimits | None = None,
) -> Video:
    """The chosen frames of a video file, at their own size, for `Model.generate(videos=[...])`.

        clip = neo_edge.read_video("clip.mp4", FrameSampling("count", frames=8))

    Any container and codec that PyAV's FFmpeg plays. Frames are upright as the file's display matrix says, and not
    deinterlaced; pixels count as square. Times start at 0 with the first frame. Where the rate varies, a frame's time
    is its timestamp, and `fps` and `times` take what is shown at a time; else times are index through rate, as
    upstream writes them. A damaged file gives its good frames, a `VideoWarning`, and what is wrong in `warnings`.

    Args:
        source: a path, the bytes of a file, or an open binary file, which is read from its start and left where it
            stood.
        sampling: which frames; None: those of the protocol `edge`, one a second and at most 64.
        limits: what is read at most.

    Raises:
        VideoError: nothing there, no video, nothing that can be decoded, or beyond the limits.
        MemoryBudgetError: the frames do not fit the free memory.
        MissingExtraError: PyAV is not installed (extra `video`).
    """
    limits = limits or VideoLimits()
    read = read_frames(
        source, sampling or get_protocol("edge").frame_sampling, limits, lambda image: image, keep_size=True
    )
    frames = (Frame(image, time_s) for image, time_s in zip(read.frames, read.times_s, strict=True))
    return Video(tuple(frames), read.duration_s, read.fps, read.warnings)


def read_frames(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader,
    sampling: FrameSampling,
    limits: VideoLimits,
    make: Callable[[Image.Image], _Made],
    *,
    keep_size: bool = False,
) -> ReadFrames[_Made]:
    """The chosen frames, each turned by `make` into what is kept of it as soon as it is decoded.

    Raises:
        VideoError, MemoryBudgetError, MissingExtraError: as `read_video`; memory only with `keep_size`.
    """
    with open_video(source, max_pixels=limits.max_pixels) as video:
        index = index_video(video, limits)
        chosen = _chosen(video, index, sampling.at_most(limits.max_frames), limits)
        wanted = sorted(set(chosen))
        if keep_size:
            _require_memory(video, len(wanted))
        made = _made(decode_frames(video, index, wanted, limits), make, compress=sampling.jpeg_round_trip)
        good = [number for number in chosen if number in made]
        found = list(index.warnings)
        if len(made) < len(wanted):
            found.append(f"{len(wanted) - len(made)} of {len(wanted)} frames cannot be decoded")
        if not good:
            raise VideoError(f"{video.name}: {'; '.join(found)}: give a whole file")
        for problem in found:
            warnings.warn(f"{video.name}: {problem}", VideoWarning, stacklevel=3)
        return ReadFrames(
            frames=tuple(made[number] for number in good),
            times_s=tuple(float(index.times_s[number]) for number in good),
            duration_s=index.duration_s,
            fps=len(good) / index.duration_s,
            warnings=tuple(f"{video.name}: {problem}" for problem in found),
        )


def _made(
    frames: Iterator[tuple[int, Any]], make: Callable[[Image.Image], _Made], *, compress: bool
) -> dict[int, _Made]:
    """What `make` gives of each frame, by its number; made while the next ones are decoded."""

    def one(frame: Any) -> _Made:
        image = to_image(frame)
        return make(_compressed(image) if compress else image)

    workers = min(MOST_WORKERS, usable_physical_cores())
    if workers == 1:  # a thread would only take turns with this one
        return {number: one(frame) for number, frame in frames}
    made: dict[int, _Made] = {}
    waiting: deque[tuple[int, Future[_Made]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="video-frames") as pool:
        try:
            for number, frame in frames:
                waiting.append((number, pool.submit(one, frame)))
                while len(waiting) > 2 * workers:  # decoded frames are large
                    done, future = waiting.popleft()
                    made[done] = future.result()
            made.update((number, future.result()) for number, future in waiting)
        finally:
            for _, future in waiting:
                future.cancel()
    return made


def _chosen(video: OpenVideo, index: VideoIndex, sampling: FrameSampling, limits: VideoLimits) -> list[int]:
    number = sampling.count(len(index.times_s), index.fps)
    if number > limits.max_frames:
        raise VideoError(
            f"{number} frames of {video.name} are asked for; at most {limits.max_frames} are shown to the model: ask "
            "for fewer, or raise max_frames of the model's VideoLimits"
        )
    if sampling.times_s is not None and sampling.times_s[-1] > index.duration_s:
        raise VideoError(
            f"{sampling.times_s[-1]:g} s is asked for, and {video.name} ends at {index.duration_s:.2f} s: ask "
            "for earlier times"
        )
    return index.choose(sampling)


def _require_memory(video: OpenVideo, frames: int) -> None:
    codec = video.stream.codec_context
    need = frames * codec.width * codec.height * 3
    free = available_memory_bytes()
    if free is not None and need > free:
        raise MemoryBudgetError(
            f"{frames} frames of {codec.width}x{codec.height} take {need >> 20} MiB and {free >> 20} MiB are "
            "free: ask for fewer, or give the file to the model itself, which keeps frames at the size that it sees"
        )


def _compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return load_image(file, upstream_rules=True)
