"""Any picture a caller may hold -> an upright RGB `PIL.Image`, or an `ImageError` that says what to do.

Read: a path, bytes, an open binary file, a PIL image, a numpy array. Of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union, runtime_checkable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from neo_edge.errors import ImageError
from neo_edge_runtime.device_frame import CudaArray, DlpackArray, is_on_device

if TYPE_CHECKING:
    import numpy.typing as npt

_log = logging.getLogger(__name__)

MAX_ENCODED_PIXELS = (
    89_478_485  # Pillow's own warning level: 256 MiB as RGB. A larger file is refused undecoded.
)

MAX_FILE_BYTES = 1 << 30  # more than so many pixels take in any format, 16 bits a channel and uncompressed

# What Pillow's decoders raise on broken or hostile bytes (its plugins document no narrower set).
_DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_SMALLER = "scale it down, or decode it yourself and pass the image"
_STARTS_PROGRAMS = ("EPS",)  # Pillow hands PostScript, which is a program, to Ghostscript


@runtime_checkable
class BinaryReader(Protocol):
    """An open binary file, or whatever else hands out bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageSource = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryReader,
    Image.Image,
    "npt.NDArray[np.generic]",
    CudaArray,  # only where the model runs on that GPU
    DlpackArray,
]


def load_image(source: ImageSource, *, upstream_rules: bool = False) -> Image.Image:
    """The picture as RGB, 8 bits a channel, the way its owner sees it.

    The EXIF orientation is applied and transparency is laid over white. 16-bit greys keep their high byte.

    Args:
        source: a path; the bytes of a file; an open binary file, read from its position (from its start when it
            stands at its end), put back to that position and left open; a PIL image, left as it is; or an array
            [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, bool, uint16 (0..65535) or float (0..1).
        upstream_rules: do as NEO's own code: no EXIF, and transparency only counts where a pixel is wholly
            transparent (then over white, else it is dropped).

    Raises:
        ImageError: nothing there, not a picture, broken, of an unknown type, or more than
            `MAX_ENCODED_PIXELS` in a file.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source)
    elif isinstance(source, Image.Image):
        image = source
    else:
        image = _decode(source)
    return _to_rgb(image, upstream_rules=upstream_rules)


def check_head(path: Path) -> None:
    """A glance at the head of a picture file; decodes nothing.

    Raises:
        ImageError: nothing there, or not a picture.
    """
    try:
        with _quiet_pillow(), Image.open(path):
            pass
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"{path} cannot be read as a picture ({_reason(error)}): save it again as PNG or JPEG"
        ) from error


def is_one_image(value: object) -> bool:
    """Whether this is what `load_image` takes and not a list of it; a path is a sequence of letters, too."""
    if isinstance(value, np.ndarray):
        return value.ndim < 4
    known = isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | BinaryReader | Image.Image)
    return known or is_on_device(value)


def _decode(source: object) -> Image.Image:
    name, data = _read(source)
    if not data:
        raise ImageError(f"{name} is empty: give the whole picture file")
    try:
        with _quiet_pillow():
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            runs_code = image.format in _STARTS_PROGRAMS
            if width * height <= MAX_ENCODED_PIXELS and not runs_code:
                image.load()
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large to be decoded ({error}): {_SMALLER}") from error
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"{name} cannot be read as a picture ({_reason(error)}): save it again as PNG or JPEG"
        ) from error
    if runs_code:
        raise ImageError(
            f"{name} is {image.format}, which a program outside would have to draw: save it as PNG or JPEG"
        )
    if width * height > MAX_ENCODED_PIXELS:
        raise ImageError(
            f"{name} is {width}x{height}, {width * height} pixels; at most {MAX_ENCODED_PIXELS} are decoded "
            f"(a small file can unpack to fill the memory): {_SMALLER}"
        )
    return image


def _reason(error: Exception) -> str:
    """Pillow's own words, but for those that name an object of ours."""
    return "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)


def _read(source: object) -> tuple[str, bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        return "the image data", bytes(source)
    if isinstance(source, str | os.PathLike):
        return str(source), _read_file(Path(source))
    if isinstance(source, BinaryReader):
        return "the image file object", _read_file_object(source)
    if is_on_device(source):
        raise ImageError(
            f"the {type(source).__name__} lies on a GPU, and this model runs elsewhere: copy it to the host, or load "
            "the model with backend='tensorrt'"
        )
    raise ImageError(
        f"an image is a path, bytes, a binary file, a PIL image or a numpy array; this one is {type(source).__name__}"
    )


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            endless = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
            data = b"" if endless else file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read ({error}): give the path of a picture file") from error
    if endless:
        raise ImageError(f"{path} is a device: give the path of a picture file")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, too many for a picture: scale it down"
        )
    return data


def _read_file_object(file: BinaryReader) -> bytes:
    try:
        if not (isinstance(file, io.IOBase) and file.seekable()):
            data = file.read()
        else:
            start = file.tell()
            data = file.read()
            if not data and start:
                file.seek(0)
                data = file.read()
            file.seek(start)
    except (OSError, ValueError) as error:
        raise ImageError(f"the image file object cannot be read ({error}): open it again") from error
    if not isinstance(data, bytes):
        raise ImageError(
            f"the image file object gives {type(data).__name__}: open the file in binary mode ('rb')"
        )
    return data


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    shape = "x".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise ImageError(
            f"an image array of shape {shape} cannot be read: give [height, width], [height, width, 3] (RGB) "
            "or [height, width, 4] (RGBA)"
        )
    pixels = _as_uint8(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _as_uint8(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.right_shift(array.astype(np.uint16, copy=False), 8).astype(np.uint8)
    if array.dtype.kind == "f":
        wide = array.astype(np.float32)
        low, high = float(wide.min()), float(wide.max())
        if low >= 0.0 and high <= 1.0:  # false for NaN too
            return np.rint(wide * 255).astype(np.uint8)
        raise ImageError(
            f"a float image array must lie in 0..1; this one spans {low:g}..{high:g}: "
            "divide by its full scale, or pass uint8"
        )
    raise ImageError(
        f"an image array of {array.dtype} cannot be read: give uint8, bool, uint16 or float in 0..1"
    )


def _to_rgb(image: Image.Image, *, upstream_rules: bool) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"the image is {image.width}x{image.height} pixels: give one that is not empty")
    try:
        with _quiet_pillow():
            return _converted(image if upstream_rules else _upright(image), upstream_rules=upstream_rules)
    except _DECODING_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"an image of mode {image.mode} cannot be turned into RGB ({error}): convert it to RGB first"
        ) from error


def _converted(image: Image.Image, *, upstream_rules: bool) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_array(_high_byte(image))
    elif image.mode == "F":
        image = _from_array(np.asarray(image))
    if image.mode == "La":  # greys already multiplied by their alpha; Pillow knows one way back
        image = image.convert("LA")
    if _has_alpha(image):
        return _over_white(image.convert("RGBA"), only_if_wholly_transparent=upstream_rules)
    return image.convert("RGB")


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings of large pictures and damaged metadata: what matters of them is an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODING_ERRORS as error:  # viewers show such a picture as it is stored
        _log.warning("the picture's EXIF data is broken (%s); its orientation is ignored", error)
        return image


def _high_byte(image: Image.Image) -> npt.NDArray[np.uint8]:
    """16-bit greys; Pillow opens them as I;16 or, widened, as I, and its own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"a {image.mode} image must lie in 0..65535; this one spans {low}..{high}: pass uint8"
        )
    return (values >> 8).astype(np.uint8)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _over_white(image: Image.Image, *, only_if_wholly_transparent: bool) -> Image.Image:
    alpha = image.getchannel("A")
    if only_if_wholly_transparent and np.asarray(alpha).min() > 0:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white
