"""Which frames a video file has, and when each is shown: a list of its packets, made without decoding.

It takes 2 to 8 microseconds a packet and reads the file once. Where the packets' timestamps cannot be trusted (some
are missing or repeated, or they jump back), the frames are decoded once to be counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neo_edge.errors import VideoError
from neo_edge_runtime.video_file import pixel_error

if TYPE_CHECKING:
    import numpy.typing as npt

    from neo_edge.frame_sampling import FrameSampling
    from neo_edge_runtime.video_file import OpenVideo
    from neo_edge_runtime.video_limits import VideoLimits

_ASSUMED_FPS = 25.0  # FFmpeg's own assumption for files that say nothing
_MOST_FPS = 1000  # what claims more in a whole file is refused as endless
_REORDERED = 64  # a frame is decoded at most so many places from where it is shown (H.264 allows 16)
_OFF_BEAT = 0.5  # of a frame: how far a timestamp may be from a steady rate


@dataclass(frozen=True)
class VideoIndex:
    """All frames of a file in the order in which they are shown."""

    times_s: npt.NDArray[np.float64]  # [n] from the first frame's on
    fps: float  # frames per second; the average, where the rate varies
    steady: bool  # whether times_s are index / fps
    pts: (
        npt.NDArray[np.int64] | None
    )  # [n] the container's timestamps, which name the frames; None: no such names
    position: npt.NDArray[np.int64]  # [n] of each frame's packet in the order of decoding
    keys: tuple[tuple[int, int, int], ...]  # (position, pts, dts) of the packets at which decoding can begin
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """As upstream counts it: frames through rate."""
        return len(self.times_s) / self.fps

    def choose(self, sampling: FrameSampling) -> list[int]:
        """Frames by upstream's rules; where the rate varies and a time is meant, the frame that is shown then."""
        number, length = len(self.times_s), len(self.times_s)
        by_time = sampling.times_s
        if sampling.mode == "fps" and not self.steady:
            assert sampling.fps is not None
            number = sampling.count(length, self.fps)
            if number == max(1, int(self.duration_s * sampling.fps)):
                by_time = tuple(index / sampling.fps for index in range(number))
        if by_time is None or (self.steady and sampling.mode == "times"):
            return sampling.indices(length, self.fps)
        shown = np.searchsorted(self.times_s, np.array(by_time) + 1e-6, side="right") - 1
        return [int(index) for index in np.clip(shown, 0, length - 1)]


def index_video(video: OpenVideo, limits: VideoLimits) -> VideoIndex:
    """Lists the frames.

    Raises:
        VideoError: there are none, or they last longer than the limits allow.
    """
    packets, problem = _packets(video, limits)
    warnings = [] if problem is None else [problem]
    pts = _trusted(packets)
    rate = float(video.stream.average_rate or 0)
    if pts is None:
        times, ended = _decoded_times(video, limits)
        if ended is not None and not warnings:
            warnings.append(f"its end is damaged ({ended})")
        position = np.arange(len(times), dtype=np.int64)
    else:
        position = np.argsort(pts, kind="stable")
        pts = pts[position]
        times = (pts - pts[0]) * float(video.stream.time_base)
    if not len(times):
        raise VideoError(f"{video.name} holds no frame that can be decoded: give the whole file")
    declared = video.stream.frames
    if declared > len(times) + 1 and not warnings:
        warnings.append(f"it announces {declared} frames and holds {len(times)}")
    times, fps, steady = _beat(times, rate, video, warnings)
    _check_duration(video.name, len(times) / fps, limits)
    keys = tuple((at, packet[0], packet[1]) for at, packet in enumerate(packets) if packet[2])
    return VideoIndex(times, fps, steady, pts, position, keys if pts is not None else (), tuple(warnings))


_Packet = tuple[Any, Any, bool]  # pts, dts, whether decoding can begin here


def _packets(video: OpenVideo, limits: VideoLimits) -> tuple[list[_Packet], str | None]:
    """Of all packets that give a frame, and what is wrong with the file."""
    packets: list[_Packet] = []
    tick_s = float(video.stream.time_base or 0)
    most = limits.max_duration_s * _MOST_FPS
    hides_frames = video.stream.codec_context.name == "vp8"
    first: int | None = None
    damaged, cut = 0, False
    try:
        for packet in video.container.demux(video.stream):
            if not packet.size or packet.is_discard:
                continue
            if hides_frames and not bytes(packet)[0] & 0x10:
                continue  # a reference that is never shown: show_frame of VP8's frame tag (RFC 6386, 9.1)
            damaged += packet.is_corrupt
            cut = packet.is_corrupt
            packets.append((packet.pts, packet.dts, packet.is_keyframe))
            if packet.pts is not None:
                first = packet.pts if first is None else min(first, packet.pts)
                _check_duration(video.name, (packet.pts - first) * tick_s, limits)
            if len(packets) > most:
                raise VideoError(
                    f"{video.name} has more than {len(packets) - 1} frames, more than {_MOST_FPS} a second of the "
                    f"{limits.max_duration_s:g} s that are allowed: cut it"
                )
    except video.errors as error:
        return packets, f"its end is damaged ({error})"
    if cut and len(packets) > 1:
        return packets[:-1], "its end is damaged (the last packet is cut)"
    return packets, f"{damaged} of its packets are damaged" if damaged else None


def _trusted(packets: list[_Packet]) -> npt.NDArray[np.int64] | None:
    """The timestamps in the order of decoding, where they name the frames."""
    found = [packet[0] for packet in packets]
    if not packets or None in found or len(set(found)) != len(found):
        return None
    pts = np.array(found, np.int64)
    rank = np.argsort(np.argsort(pts))
    jumps = np.abs(rank - np.arange(len(pts))).max() > _REORDERED
    return None if jumps or not packets[0][2] else pts


def _decoded_times(video: OpenVideo, limits: VideoLimits) -> tuple[npt.NDArray[np.float64], str | None]:
    """Of all frames, by decoding them; NaN where the file says none, or one that is not after the last."""
    video.rewind()
    found: list[float | None] = []
    codec = video.stream.codec_context
    unpacked, ended = 0, None
    try:
        for packet in video.container.demux(video.stream):
            try:
                frames = codec.decode(packet)
            except video.errors as error:
                ended = str(error)
                continue
            for frame in frames:
                found.append(frame.time)
                unpacked += 3 * frame.width * frame.height
                if frame.width * frame.height > limits.max_pixels:
                    raise pixel_error(video.name, frame.width, frame.height, limits.max_pixels)
                if unpacked > limits.max_decoded_bytes:
                    raise _too_much(video.name, unpacked, limits)
    except video.errors as error:
        ended = str(error)
    times = np.array([np.nan if time is None else time for time in found], np.float64)
    if len(times) and not np.isnan(times).any() and (np.diff(times) > 0).all():
        return times - times[0], ended
    return np.full(len(times), np.nan), ended


def require_decodable(name: str, decoded_bytes: int, limits: VideoLimits) -> None:
    """Raises `VideoError` where more would be decoded than the limits allow."""
    if decoded_bytes > limits.max_decoded_bytes:
        raise _too_much(name, decoded_bytes, limits)


def _too_much(name: str, decoded_bytes: int, limits: VideoLimits) -> VideoError:
    return VideoError(
        f"{name}: {decoded_bytes} bytes of frames would be decoded; at most {limits.max_decoded_bytes} are: cut it, "
        "scale it down, or raise max_decoded_bytes of the model's VideoLimits"
    )


def _check_duration(name: str, seconds: float, limits: VideoLimits) -> None:
    if not seconds <= limits.max_duration_s:
        raise VideoError(
            f"{name} lasts {seconds:.1f} s or more; at most {limits.max_duration_s:g} s are read: cut it, or raise "
            "max_duration_s of the model's VideoLimits"
        )


def _beat(
    times: npt.NDArray[np.float64], rate: float, video: OpenVideo, warnings: list[str]
) -> tuple[npt.NDArray[np.float64], float, bool]:
    """Times, frames per second, and whether they are steady."""
    number = np.arange(len(times))
    if np.isnan(times[0]):
        rate = rate or float(video.stream.guessed_rate or 0)
        if not 0 < rate <= _MOST_FPS:
            rate = _ASSUMED_FPS
            warnings.append(f"it does not say when its frames are shown; {rate:g} a second are assumed")
        return number / rate, rate, True
    if len(times) == 1:
        return times, rate if 0 < rate <= _MOST_FPS else _ASSUMED_FPS, True
    average = (len(times) - 1) / times[-1]
    for fps in (rate, average):
        if fps > 0 and np.abs(times - number / fps).max() <= _OFF_BEAT / fps:
            return number / fps, fps, True
    return times, float(average), False
