from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neo_edge.errors import ImageError
from neo_edge_runtime.image_input import ImageSource, load_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def picture() -> Image.Image:
    """4x2 pixels, all different."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Pipe:
    """A reader that cannot seek, such as a network response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1, /) -> bytes:
        assert size == -1
        return self._data


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture()))
    data, expected = path.read_bytes(), np.asarray(picture())
    sources: list[ImageSource] = [
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Pipe(data),
        picture(),
        expected,
        expected[:, ::-1][:, ::-1],
    ]
    for source in sources:
        image = load_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), expected)


def test_a_file_object_is_left_open_where_it_stood(tmp_path: Path) -> None:
    data = encoded(picture())
    path = tmp_path / "two.bin"
    path.write_bytes(b"header" + data)
    with path.open("rb") as file:
        file.seek(6)
        for _ in range(2):
            assert load_image(file).size == (4, 2)
            assert file.tell() == 6
        assert not file.closed


def test_a_file_object_that_was_just_written_is_read_from_its_start() -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    assert load_image(buffer).size == (4, 2)
    assert buffer.tell() == len(buffer.getvalue())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "empty"),
        (b"not a picture", r"cannot be read as a picture \(its format is unknown\)"),
        (encoded(picture())[:40], "cannot be read as a picture"),
        (io.BytesIO(), "empty"),
        (io.StringIO("text"), "binary mode"),
        ("no/such/file.png", "cannot be read"),
        ("nul\0byte.png", "cannot be read"),
        (".", "cannot be read"),
        (None, "this one is NoneType"),
        (3.5, "this one is float"),
        (np.zeros((0, 4, 3), np.uint8), "0x4x3"),
        (np.zeros((4, 4, 2), np.uint8), "4x4x2"),
        (np.zeros(4, np.uint8), "shape 4"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        (np.full((2, 2), 1.5), r"0\.\.1.*1\.5"),
        (np.full((2, 2), np.nan), "nan"),
        (Image.new("RGB", (0, 5)), "0x5"),
        (Image.new("I", (2, 2), -1), r"0\.\.65535"),
        (Image.new("I", (2, 2), 70000), "70000"),
        (Image.new("F", (2, 2), 3.0), r"0\.\.1"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(source: ImageSource, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(source)


def test_a_closed_file_object_is_refused() -> None:
    buffer = io.BytesIO(encoded(picture()))
    buffer.close()
    with pytest.raises(ImageError, match="open it again"):
        load_image(buffer)


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_500, 20_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_file_that_would_unpack_to_fill_the_memory_is_refused_undecoded(side: int) -> None:
    with pytest.raises(ImageError, match=r"pixels"):
        load_image(_png_header(side, side))


def test_a_decompression_bomb_is_refused_when_warnings_are_errors_too() -> None:
    with pytest.raises(ImageError, match="pixels"):
        load_image(_png_header(9_500, 9_500))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_but_not_by_upstreams_rules(orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = RED  # a red corner, top left as it is stored
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encoded(image, "JPEG", quality=100, exif=exif)
    # Where EXIF says that the stored top left corner is to be seen: (right?, bottom?)
    right, bottom = {
        1: (0, 0),
        2: (1, 0),
        3: (1, 1),
        4: (0, 1),
        5: (0, 0),
        6: (1, 0),
        7: (1, 1),
        8: (0, 1),
    }[orientation]
    upright = load_image(jpeg)
    assert upright.size == ((32, 16) if orientation <= 4 else (16, 32))
    corner = upright.getpixel((upright.width - 3 if right else 2, upright.height - 3 if bottom else 2))
    assert isinstance(corner, tuple)
    assert corner[0] > 200
    assert corner[1] < 60
    stored = load_image(jpeg, upstream_rules=True)
    assert stored.size == (32, 16)


def test_broken_exif_is_ignored_without_a_warning_of_pillows() -> None:
    image = picture()
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        assert load_image(image).size == (4, 2)
    assert leaked == []


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 128)])
    found = np.asarray(load_image(image))[0].tolist()
    assert found == [[255, 0, 0], [255, 255, 255], [255, 127, 127]]
    assert np.array_equal(load_image(np.asarray(image)), load_image(image))


def test_by_upstreams_rules_transparency_counts_only_where_a_pixel_is_wholly_transparent() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    assert load_image(half, upstream_rules=True).getpixel((0, 0)) == RED
    half.putpixel((1, 0), (0, 0, 255, 0))
    assert load_image(half, upstream_rules=True).getpixel((0, 0)) == (255, 127, 127)
    assert load_image(half, upstream_rules=True).getpixel((1, 0)) == WHITE


def test_a_palette_with_a_transparent_colour_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    reloaded = Image.open(io.BytesIO(encoded(image, transparency=1)))
    assert np.asarray(load_image(reloaded))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "RGBa"]
)
def test_every_mode_of_eight_bits_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (2, 2), 255)
    via = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, mode)
    image = grey.convert(via)
    image = image if via == mode else image.convert(mode)
    assert load_image(image).getpixel((1, 1)) == WHITE


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_greys_keep_their_high_byte(mode: str) -> None:
    values = np.array([[0, 0x1234], [0x80FF, 0xFFFF]], np.int32)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (2, 2), values.astype(dtype).tobytes())
    assert np.asarray(load_image(image))[:, :, 0].tolist() == [[0, 0x12], [0x80, 0xFF]]


def test_a_sixteen_bit_png_is_not_clipped() -> None:
    png = encoded(Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16)))
    assert np.asarray(load_image(png))[0, :, 1].tolist() == [0, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((2, 3), 0.5), 128),
        (np.full((2, 3, 3), 1.0, np.float32), 255),
        (np.full((2, 3, 1), 0.25, np.float16), 64),
        (np.full((2, 3), True), 255),
        (np.full((2, 3, 3), 0x7F80, np.uint16), 0x7F),
        (np.full((2, 3), 9, np.uint8), 9),
    ],
)
def test_arrays_of_other_types_are_scaled_to_eight_bits(array: np.ndarray, value: int) -> None:
    image = load_image(array)
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == (value, value, value)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, (0, 0, 255))]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(gif).getpixel((0, 0)) == RED


def test_the_callers_image_is_left_as_it_is() -> None:
    image = Image.new("RGBA", (2, 2), (1, 2, 3, 0))
    load_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 0)
