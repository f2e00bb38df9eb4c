"""Frames of a camera or of an address, as FFmpeg gives them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from neo_edge.errors import SourceError
from neo_edge.extras import require
from neo_edge_runtime.live.decoded_frame import DecodedFrame
from neo_edge_runtime.video_file import pixel_error

if TYPE_CHECKING:
    from types import ModuleType

# What an address may make FFmpeg open: the network, and never a file of this machine.
_NETWORK = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,rtmp,rtmps,srt,crypto,data"


class StreamSource:
    """Opened anew by each call of `frames`; its frames have the times at which they come.

    Timestamps of cameras and of network streams begin anew, jump and drift; this machine's clock does not.
    """

    can_reopen = True

    def __init__(
        self,
        address: str,
        *,
        camera: bool,
        options: Mapping[str, str],
        open_timeout_s: float,
        read_timeout_s: float,
        max_pixels: int,
    ) -> None:
        """As `open_source`; `camera`: the address is a Video4Linux device."""
        self.name = address if camera else _without_password(address)
        self._address, self._camera, self._max_pixels = address, camera, max_pixels
        self._timeouts_s = (open_timeout_s, read_timeout_s)
        own = {} if camera else {"protocol_whitelist": _NETWORK, "rtsp_transport": "tcp"}
        self._options = {**own, **options}

    def frames(self, stopped: threading.Event) -> Iterator[DecodedFrame]:
        """As `FrameSource.frames`.

        Raises:
            SourceError: it cannot be reached, gives no video, gives nothing for too long, or has ended.
            VideoError: its frames are too large.
            MissingExtraError: PyAV is not installed.
        """
        av = require("av", extra="video")
        errors = (av.error.FFmpegError, OSError, EOFError)
        container = self._open(av, errors)
        try:
            codec_stream = self._video_stream(container)
            codec = codec_stream.codec_context
            codec.options = {"max_pixels": str(self._max_pixels)}
            codec.thread_type = "SLICE"  # a thread a frame would hold frames back
            packets = container.demux(codec_stream)
            while not stopped.is_set():
                packet = self._next(av, errors, packets)
                if packet is None:
                    break
                for frame in _decoded(codec, packet, errors):
                    if frame.width * frame.height > self._max_pixels:
                        raise pixel_error(self.name, frame.width, frame.height, self._max_pixels)
                    yield DecodedFrame(frame, None)
        finally:
            container.close()
        if not stopped.is_set():
            raise SourceError(
                f"{self.name} has ended: see that its sender runs, and allow it to be opened again"
            )

    def _open(self, av: ModuleType, errors: tuple[type[Exception], ...]) -> Any:
        try:
            return av.open(
                self._address,
                format="v4l2" if self._camera else None,
                options=dict(self._options),
                timeout=self._timeouts_s,
                metadata_errors="replace",
            )
        except av.error.ExitError as error:
            raise SourceError(
                f"{self.name} does not answer within {self._timeouts_s[0]:g} s: see that it runs and can be "
                "reached, or raise open_timeout_s"
            ) from error
        except errors as error:
            what = "another program may use it, or " if self._camera else ""
            raise SourceError(
                f"{self.name} cannot be opened ({_reason(error)}): {what}it is not there; see that it is a "
                f"{'Video4Linux camera' if self._camera else 'video stream that runs'}"
            ) from error

    def _video_stream(self, container: Any) -> Any:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                return stream
        found = ", ".join(stream.type for stream in container.streams) or "none"
        raise SourceError(f"{self.name} has no video (streams: {found}): give the address of one that has")

    def _next(self, av: ModuleType, errors: tuple[type[Exception], ...], packets: Iterator[Any]) -> Any:
        try:
            return next(packets, None)
        except av.error.ExitError as error:
            raise SourceError(
                f"{self.name} has given nothing for {self._timeouts_s[1]:g} s: see that its sender runs, or raise "
                "read_timeout_s"
            ) from error
        except errors as error:
            raise SourceError(
                f"{self.name} has broken off ({_reason(error)}): see that it is still there, and allow it to be "
                "opened again"
            ) from error


def _decoded(codec: Any, packet: Any, errors: tuple[type[Exception], ...]) -> list[Any]:
    """Frames of a packet; a damaged one, as after a lost datagram, gives none."""
    with contextlib.suppress(*errors):
        return list(codec.decode(packet))
    return []


def _without_password(address: str) -> str:
    """The address as it may stand in a log: no user, no password, no query."""
    try:
        parts = urlsplit(address)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:  # such as an unclosed bracket of an IPv6 address
        return address.partition("://")[0] + "://..."
    return f"{parts.scheme}://{place}{parts.path}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
