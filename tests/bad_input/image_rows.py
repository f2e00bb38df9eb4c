"""Pictures that are broken, hostile or only unusual."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_row import Action, Place, Row
from PIL import Image

from neo_edge.config import load_config
from neo_edge.errors import ImageError, InputError
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.preprocessing import PixelLimits, size_image

SAVE = "save it again as PNG or JPEG"
GRADIENT = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(GRADIENT)


def refused(broken: str, make: Callable[[], object], *words: str, peak_mib: int = 160) -> Row:
    def prepare(_: Place) -> Action:
        source: Any = make()
        return lambda: load_image(source)

    return Row(broken, prepare, ImageError, words, peak_mib=peak_mib)


def path(broken: str, content: bytes | None, *words: str, name: str = "picture.png") -> Row:
    def prepare(place: Place) -> Action:
        if content is not None:
            (place.folder / name).write_bytes(content)
        return lambda: load_image(place.folder / name)

    return Row(broken, prepare, ImageError, words)


def unusual(broken: str, make: Callable[[], object], pixel: tuple[int, int, int], *, within: int = 0) -> Row:
    """Is read all the same; the pixel at the upper left shows how."""

    def prepare(_: Place) -> Action:
        source: Any = make()
        return lambda: load_image(source)

    def gives(found: object) -> bool:
        assert isinstance(found, Image.Image)
        at = found.getpixel((0, 0))
        assert isinstance(at, tuple)
        return found.mode == "RGB" and all(abs(a - b) <= within for a, b in zip(at, pixel, strict=True))

    return Row(f"{broken}: read", prepare, None, gives=gives)


def sized(broken: str, size: tuple[int, int], *words: str) -> Row:
    """A whole picture whose shape the model does not take."""

    def prepare(place: Place) -> Action:
        image, config = Image.new("RGB", size), load_config(place.checkpoint).vision
        limits = PixelLimits(config.min_pixels, config.max_pixels, max_visual_tokens=64)
        return lambda: size_image(load_image(image), config, limits)

    return Row(broken, prepare, ImageError, words)


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of any claimed size over any data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    """A compressed comment that unpacks to 200 MiB."""
    body = b"Comment\0\0" + zlib.compress(bytes(200 << 20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = encoded(picture())
    return whole[:33] + chunk + whole[33:]


def _palette(*, transparent: bool) -> bytes:
    image = Image.new("P", (8, 8), 3)
    image.putpalette([0, 0, 0] * 3 + [200, 30, 40])
    return encoded(image, transparency=bytes([255, 255, 255, 0])) if transparent else encoded(image)


def _animation() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def _cut_jpeg() -> bytes:
    return encoded(picture(), "JPEG")[:-200]


def _broken_exif() -> bytes:
    return encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12")


def _folder(place: Place) -> Action:
    return lambda: load_image(place.folder)


def _loop(place: Place) -> Action:
    (place.folder / "a.png").symlink_to("a.png")
    return lambda: load_image(place.folder / "a.png")


def _endless_file(place: Place) -> Action:
    with (place.folder / "a.png").open("wb") as file:
        file.truncate((1 << 30) + 2)  # sparse: takes no room on the disk
    return lambda: load_image(place.folder / "a.png")


def _text_mode(place: Place) -> Action:
    (place.folder / "a.txt").write_text("x")
    file = (place.folder / "a.txt").open()

    def read() -> object:
        with file:
            return load_image(file)  # type: ignore[arg-type]

    return read


def _closed_file() -> io.BytesIO:
    file = io.BytesIO(encoded(picture()))
    file.close()
    return file


def _limits(smallest: int, largest: int) -> Callable[[Place], Action]:
    return lambda _: lambda: PixelLimits(smallest, largest)


_PS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n%%EOF\n"
IMAGE_ROWS = (
    path("a missing file", None, "picture.png cannot be read", "give the path of a picture file"),
    path("an empty file", b"", "is empty", "whole picture file"),
    path("text as a picture", b"hello, I am a picture", "cannot be read as a picture", SAVE),
    path("HTML as a picture", b"<!DOCTYPE html>" * 50, "cannot be read as a picture", SAVE),
    path("a pickle as a picture", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "cannot be read as a picture", SAVE),
    path("half a PNG", encoded(picture())[:-40], "cannot be read as a picture", SAVE),
    path("a PNG's signature alone", b"\x89PNG\r\n\x1a\n", "cannot be read as a picture", SAVE),
    path("a cut JPEG", _cut_jpeg(), "cannot be read as a picture", SAVE, name="picture.jpg"),
    path("PostScript, which is a program", _PS, "EPS", "a program outside", "PNG or JPEG", name="a.png"),
    Row("a folder", _folder, ImageError, ("cannot be read", "give the path of a picture file")),
    Row("a link to itself", _loop, ImageError, ("cannot be read", "give the path of a picture file")),
    Row("a file of a gibibyte", _endless_file, ImageError, ("too many for a picture",), peak_mib=1200),
    Row("a text file object", _text_mode, ImageError, ("gives str", "'rb'")),
    refused("an endless device", lambda: "/dev/zero", "is a device", "give the path of a picture file"),
    refused("NUL in the path", lambda: "a\0b.png", "cannot be read", "give the path"),
    refused("half a surrogate pair in the path", lambda: "a\ud800.png", "cannot be read", "give the path"),
    refused("a closed file object", _closed_file, "cannot be read", "open it again"),
    refused("no bytes", lambda: b"", "is empty", "whole picture file"),
    refused("a number for a picture", lambda: 5, "this one is int", "a path, bytes"),
    refused("None for a picture", lambda: None, "this one is NoneType", "a path, bytes"),
    refused(
        "a bomb of 60,000 x 60,000", lambda: png(60000, 60000, zlib.compress(bytes(99))), "scale it down"
    ),
    refused(
        "a bomb of 10,000 x 10,000", lambda: png(10000, 10000, zlib.compress(bytes(99))), "at most 89478485"
    ),
    refused(
        "a bomb of 2^31 x 2^31", lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(99))), "scale it down"
    ),
    refused("a comment that is a bomb", _text_bomb, "cannot be read as a picture", SAVE, peak_mib=100),
    refused("a PNG of no pixels", lambda: png(0, 5, zlib.compress(b"")), "cannot be read as a picture", SAVE),
    refused(
        "a PNG with wrong data", lambda: png(64, 64, b"not compressed"), "cannot be read as a picture", SAVE
    ),
    refused("a depth that PNG lacks", lambda: png(8, 8, zlib.compress(bytes(200)), depth=7), SAVE),
    refused("a PIL image of no pixels", lambda: Image.new("RGB", (0, 4)), "0x4 pixels", "not empty"),
    refused(
        "an array of five dimensions", lambda: np.zeros((1, 1, 4, 4, 3)), "1x1x4x4x3", "[height, width, 3]"
    ),
    refused("an array with channels first", lambda: np.zeros((3, 48, 64)), "3x48x64", "[height, width, 3]"),
    refused("an array of two channels", lambda: np.zeros((4, 4, 2), np.uint8), "4x4x2", "[height, width, 4]"),
    refused("an array of no pixels", lambda: np.zeros((0, 4, 3), np.uint8), "0x4x3", "[height, width, 3]"),
    refused("an array of one number", lambda: np.array(0.5), "cannot be read", "[height, width]"),
    refused("an array of int64", lambda: GRADIENT.astype(np.int64), "int64", "give uint8"),
    refused("an array of text", lambda: np.full((4, 4), "x"), "<U1", "give uint8"),
    refused("an array of objects", lambda: np.full((4, 4), None), "object", "give uint8"),
    refused("an array of complex numbers", lambda: np.zeros((4, 4), complex), "complex128", "give uint8"),
    refused("an array with NaN", lambda: np.full((4, 4, 3), np.nan, np.float32), "spans nan", "pass uint8"),
    refused("an array with infinity", lambda: np.full((4, 4), np.inf), "spans inf", "pass uint8"),
    refused("a float array of 0..255", lambda: GRADIENT.astype(np.float32), "0..255", "divide"),
    refused("a float array below zero", lambda: np.full((4, 4), -1.0), "spans -1..-1", "pass uint8"),
    refused(
        "32-bit greys beyond 16",
        lambda: Image.fromarray(np.full((4, 4), 70000, np.int32)),
        "0..65535",
        "uint8",
    ),
    unusual(
        "16-bit greys", lambda: encoded(Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))), (128, 128, 128)
    ),
    unusual(
        "16-bit colour",
        lambda: png(1, 1, zlib.compress(b"\0\xff\x11\x80\x22\x10\x33"), depth=16),
        (255, 128, 16),
    ),
    unusual("a uint16 array", lambda: np.full((8, 8, 3), 0x1234, np.uint16), (18, 18, 18)),
    unusual("a float array", lambda: np.full((8, 8), 0.5, np.float16), (128, 128, 128)),
    unusual("a bool array", lambda: np.ones((8, 8), bool), (255, 255, 255)),
    unusual("an array seen backwards", lambda: GRADIENT[::-1, ::-1], tuple(GRADIENT[-1, -1].tolist())),
    unusual(
        "CMYK", lambda: encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), (255, 0, 0), within=3
    ),
    unusual("a palette", lambda: _palette(transparent=False), (200, 30, 40)),
    unusual("a palette with transparency, over white", lambda: _palette(transparent=True), (255, 255, 255)),
    unusual("an animation's first frame", _animation, (255, 0, 0), within=2),
    unusual("greys", lambda: encoded(Image.new("L", (8, 8), 77)), (77, 77, 77)),
    unusual("one bit a pixel", lambda: encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
    unusual(
        "greys with alpha, over white", lambda: encoded(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)
    ),
    unusual("premultiplied alpha", lambda: Image.new("RGBa", (8, 8), (0, 0, 0, 0)), (255, 255, 255)),
    unusual("a float TIFF", lambda: encoded(Image.new("F", (8, 8), 1.0), "TIFF"), (255, 255, 255)),
    unusual("broken EXIF, ignored", _broken_exif, (0, 1, 2), within=40),
    unusual("one pixel", lambda: Image.new("RGB", (1, 1), "red"), (255, 0, 0)),
    sized("1 x 100,000 pixels", (1, 100_000), "1x100000", "200 times as long as broad", "crop it"),
    sized("100,000 x 1 pixels", (100_000, 1), "100000x1", "crop it"),
    sized(
        "more visual tokens than allowed",
        (1024, 1024),
        "allows 64",
        "max_pixels=65536",
        "max_visual_tokens>=",
    ),
    Row(
        "pixel limits the wrong way round",
        _limits(9, 4),
        InputError,
        ("9..4", "the first at most the second"),
    ),
    Row("pixel limits below zero", _limits(-1, 4), InputError, ("-1..4", "above zero")),
)
