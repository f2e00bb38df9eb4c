"""Where live frames come from: what a source is, and how a name becomes one."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union, runtime_checkable

from neo_edge.errors import InputError, SourceError
from neo_edge.shown import shown
from neo_edge_runtime.image_input import BinaryReader, ImageSource, is_one_image
from neo_edge_runtime.video_limits import VideoLimits

if TYPE_CHECKING:
    from neo_edge_runtime.video import Frame

MAX_RATE_HZ = 1000.0
NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")


class TimedImage(Protocol):
    """A frame as a source gives it; `neo_edge.Frame` is one."""

    @property
    def image(self) -> ImageSource:
        """The picture; may be decoded only when it is asked for."""
        ...

    @property
    def time_s(self) -> float | None:
        """Seconds by the source's own clock, from any start; None: the moment at which the frame came."""
        ...


@runtime_checkable
class FrameSource(Protocol):
    """Something that gives frames while time passes; write your own by having these three."""

    @property
    def name(self) -> str:
        """For messages; without passwords."""
        ...

    @property
    def can_reopen(self) -> bool:
        """Whether `frames` may be called again when it has failed or blocks."""
        ...

    def frames(self, stopped: threading.Event) -> Iterator[TimedImage]:
        """Opens the source, gives its frames as they come, and closes it; runs in a thread of its own.

        Args:
            stopped: set when no more frames are wanted; waiting is done with it.

        Raises:
            SourceError: it cannot be opened, or has died; it may be opened again.
            NeoEdgeError: of another kind: opening it again would not help.
        """
        ...


LiveSource = Union[
    str,
    "os.PathLike[str]",
    FrameSource,
    "Iterable[ImageSource | Frame | tuple[ImageSource, float]]",
]
"""A device, an address, a file, a folder, pictures as they come, or a source of your own."""


def open_source(
    source: LiveSource,
    *,
    rate_hz: float | None = None,
    options: Mapping[str, str] | None = None,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 5.0,
    limits: VideoLimits | None = None,
) -> FrameSource:
    """A source of frames by what it is; nothing is read before a `LiveFeed` starts.

    - `/dev/video0`: a camera, by Video4Linux.
    - `rtsp://...`, `http://...` and other addresses: a stream that FFmpeg plays.
    - a video file: at the speed of its times.
    - a folder: pictures that are put there or replaced from now on; with `rate_hz`, all that it holds, by name.
    - a list, or an array [N, H, W, 3]: at the speed of their times (`(image, time_s)` or `Frame`), or of `rate_hz`.
    - another iterable: as it gives them, images, `(image, time_s)` or `Frame`.
    - a `FrameSource`: its own.

    Args:
        source: one of these.
        rate_hz: frames a second; only of folders and lists.
        options: FFmpeg's, of a camera or an address: `{"video_size": "640x480", "framerate": "30"}`.
        open_timeout_s: how long an address may take to answer.
        read_timeout_s: how long an address may give nothing before it counts as dead.
        limits: of which `max_pixels` holds for each frame of a camera, an address or a file.

    Raises:
        SourceError: there is no such file or folder.
        InputError: an argument does not fit the source.
    """
    from neo_edge_runtime.live.source_arrays import ArraySource
    from neo_edge_runtime.live.source_file import FileSource
    from neo_edge_runtime.live.source_folder import FolderSource
    from neo_edge_runtime.live.source_stream import StreamSource

    _check_numbers(rate_hz, open_timeout_s, read_timeout_s)
    limits = limits or VideoLimits()
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        scheme = name.partition("://")[0].lower() if "://" in name else None
        device = scheme is None and (name.startswith("/dev/") or _is_device(name))
        if scheme is not None or device:
            _refuse_rate(rate_hz, "a stream has a rate of its own")
            if scheme is not None and scheme not in NETWORK_SCHEMES:
                raise SourceError(
                    f"{scheme}:// is no kind of address that is opened: give one of {', '.join(NETWORK_SCHEMES)}, "
                    "or a path"
                )
            return StreamSource(
                name,
                camera=device,
                options=options or {},
                open_timeout_s=open_timeout_s,
                read_timeout_s=read_timeout_s,
                max_pixels=limits.max_pixels,
            )
        if options:
            raise InputError(f"options are for cameras and addresses; {name} is neither: leave them out")
        if _mode(name, stat.S_ISDIR):
            return FolderSource(Path(name), rate_hz)
        if not _mode(name, stat.S_ISREG):
            raise SourceError(
                f"{name!r} is no camera, address, video file or folder: give a path that exists, such as /dev/video0"
            )
        _refuse_rate(rate_hz, "a video file has times of its own")
        return FileSource(Path(name), limits)
    if options:
        raise InputError("options are for cameras and addresses: leave them out")
    if isinstance(source, FrameSource):
        _refuse_rate(rate_hz, "a FrameSource gives its own times")
        return source
    if (
        isinstance(source, bytes | bytearray | memoryview | BinaryReader)
        or is_one_image(source)
        or not isinstance(source, Iterable)
    ):
        raise InputError(
            f"a live source is a path, an address, a FrameSource or an iterable of pictures; this one is "
            f"{type(source).__name__}"
        )
    return ArraySource(source, rate_hz)


def _check_numbers(rate_hz: float | None, *timeouts_s: float) -> None:
    if rate_hz is not None and not (math.isfinite(rate_hz) and 0 < rate_hz <= MAX_RATE_HZ):
        raise InputError(
            f"rate_hz is {shown(rate_hz)}; it must be above 0 and at most {MAX_RATE_HZ:g} frames a second"
        )
    for timeout_s in timeouts_s:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise InputError(f"a timeout is {shown(timeout_s)}; it must be a number of seconds above 0")


def _refuse_rate(rate_hz: float | None, why: str) -> None:
    if rate_hz is not None:
        raise InputError(f"rate_hz is for folders and lists, and {why}: leave it out")


def _is_device(name: str) -> bool:
    return _mode(name, stat.S_ISCHR)


def _mode(name: str, kind: Callable[[int], bool]) -> bool:
    try:
        return bool(name) and kind(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return False
