"""A video file, opened by FFmpeg through a file of ours: it reads these bytes and nothing else.

FFmpeg given a name would follow playlists into other files and the network, and wait on pipes. So it gets an object
to read from, of known size, and may open nothing itself.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neo_edge.errors import VideoError
from neo_edge.extras import require
from neo_edge_runtime.image_input import BinaryReader

if TYPE_CHECKING:
    from types import ModuleType

MAX_UNSEEKABLE_BYTES = 1 << 30  # of a file object that cannot seek: it must be kept in memory

# Demuxers that read other files, run scripts, or see text as a film.
_NO_VIDEOS = frozenset({"concat", "dash", "hls", "imf", "lavfi", "sdp", "tty", "vapoursynth", "avisynth"})
_CURE = "give an MP4, MKV, WebM, AVI or another file that FFmpeg plays"
_READ_BYTES = 1 << 17


class OpenVideo:
    """A container with its video stream; `rewind` opens both anew."""

    def __init__(self, name: str, file: _Sized, max_pixels: int) -> None:
        av = require("av", extra="video")
        self.name = name  # for messages
        self.errors: tuple[type[Exception], ...] = (
            av.error.FFmpegError,
            OSError,
            EOFError,
            OverflowError,
            MemoryError,
        )  # what FFmpeg and PyAV raise on broken files
        self._av, self._file, self._max_pixels = av, file, max_pixels
        self._open()

    def rewind(self) -> None:
        """Back to the first packet, whatever the container makes of seeks."""
        self.container.close()
        self._file.seek(0)
        self._open()

    def _open(self) -> None:
        try:
            # No protocol has this name, so nothing else can be opened.
            self.container: Any = self._av.open(
                self._file,
                options={"protocol_whitelist": "none"},
                metadata_errors="replace",
                buffer_size=_READ_BYTES,
            )
        except self.errors as error:
            raise VideoError(f"{self.name} cannot be read as a video ({_reason(error)}): {_CURE}") from error
        try:
            self.stream: Any = _video_stream(self._av, self.name, self.container)
            codec = self.stream.codec_context
            _check_size(self.name, codec, self._max_pixels)
            codec.options = {"max_pixels": str(self._max_pixels)}
            codec.thread_type = "AUTO"
        except VideoError:
            self.container.close()
            raise


@contextmanager
def open_video(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader, *, max_pixels: int
) -> Iterator[OpenVideo]:
    """Opens the first video stream that is no cover picture.

    Args:
        source: a path, bytes, or an open binary file, which is read from its start and left open where it stood.
        max_pixels: of a frame; FFmpeg itself allocates no larger ones.

    Raises:
        VideoError: nothing there, no regular file, no video in it, or frames that are too large.
        MissingExtraError: PyAV is not installed.
    """
    with _readable(source) as (name, file):
        video = OpenVideo(name, file, max_pixels)
        try:
            yield video
        finally:
            video.container.close()


def pixel_error(name: str, width: int, height: int, max_pixels: int) -> VideoError:
    """What is said of frames that are too large."""
    return VideoError(
        f"{name} has frames of {width}x{height}, {width * height} pixels; at most {max_pixels} are decoded: scale it "
        "down, or raise max_pixels of the model's VideoLimits"
    )


def _video_stream(av: ModuleType, name: str, container: Any) -> Any:
    formats = set(container.format.name.split(","))
    if formats & _NO_VIDEOS:
        raise VideoError(f"{name} is {container.format.name}, which is no video of its own: {_CURE}")
    covers = 0
    for stream in container.streams.video:
        if stream.disposition & av.stream.Disposition.attached_pic:
            covers += 1
        elif stream.codec_context is None:
            raise VideoError(f"{name} is in a codec that this FFmpeg does not have: {_CURE}")
        else:
            return stream
    found = [stream.type for stream in container.streams]
    what = "only a cover picture" if covers else f"no video (streams: {', '.join(found) or 'none'})"
    raise VideoError(f"{name} has {what}: {_CURE}")


def _check_size(name: str, codec: Any, max_pixels: int) -> None:
    width, height = codec.width or 0, codec.height or 0
    if width < 1 or height < 1:
        raise VideoError(f"{name} does not say how large its frames are; it may be cut or empty: {_CURE}")
    if width * height > max_pixels:
        raise pixel_error(name, width, height, max_pixels)


@contextmanager
def _readable(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader,
) -> Iterator[tuple[str, _Sized]]:
    if isinstance(source, bytes | bytearray | memoryview):
        yield "the video data", _Sized("the video data", io.BytesIO(source), len(source))
    elif isinstance(source, str | os.PathLike):
        with _regular_file(Path(source)) as regular:
            yield str(source), _Sized(str(source), regular, os.fstat(regular.fileno()).st_size)
    elif isinstance(source, BinaryReader):
        name = "the video file object"
        file, start = _seekable(name, source)
        try:
            size = file.seek(0, io.SEEK_END)
            yield name, _Sized(name, file, size)
        finally:
            if not file.closed:
                file.seek(start)
    else:
        raise VideoError(
            f"a video is a path, bytes, a binary file or a Video; this one is {type(source).__name__}"
        )


def _regular_file(path: Path) -> io.FileIO:
    try:
        # A pipe without a writer would wait for one for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise VideoError(f"{path} cannot be read ({error}): give the path of a video file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoError(
            f"{path} is a folder, a pipe or a device: give the path of a video file; of a live source pass frames"
        )
    return io.FileIO(descriptor, "rb")


def _seekable(name: str, source: BinaryReader) -> tuple[io.IOBase | io.BytesIO, int]:
    """The file, or a copy of it in memory, and where to put it back to."""
    try:
        head = source.read(0)
        if not isinstance(head, bytes):
            raise VideoError(f"{name} gives {type(head).__name__}: open the file in binary mode ('rb')")
        if isinstance(source, io.IOBase) and source.seekable():
            return source, source.tell()
        copy = io.BytesIO()
        while block := source.read(_READ_BYTES):
            copy.write(block)
            if copy.tell() > MAX_UNSEEKABLE_BYTES:
                raise VideoError(
                    f"{name} cannot seek and has more than {MAX_UNSEEKABLE_BYTES >> 20} MiB: save it to a file first"
                )
    except VideoError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise VideoError(f"{name} cannot be read ({error}): open it again") from error
    return copy, 0


class _Sized:
    """What PyAV reads from: ends where the file ended when it was opened, though it may grow."""

    def __init__(self, name: str, file: Any, size: int) -> None:
        if not size:
            raise VideoError(f"{name} is empty: give the whole video file")
        self.name = (
            f"video{Path(name).suffix}"  # where the content leaves a doubt, FFmpeg looks at the ending
        )
        self._file, self._size = file, size
        self._at: int = file.seek(0)

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._file.read(min(size, self._size - self._at))
        except ValueError as error:  # closed meanwhile
            raise OSError(str(error)) from error
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = self._file.seek(min(max(0, base + offset), self._size))
        return self._at

    def tell(self) -> int:
        return self._at


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
