"""Small pictures in many formats, to be broken; and PNGs whose checksums are put right afterwards."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIZE = (24, 16)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pictures() -> list[bytes]:
    """Every format and mode that this Pillow writes without other programs."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4)).astype(np.uint8)
    colour, alpha = Image.fromarray(noise[..., :3].copy()), Image.fromarray(noise)
    grey, frames = colour.convert("L"), [colour, colour.rotate(90), colour.rotate(180)]
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((image, "PNG", {}) for image in (colour, alpha, grey, colour.convert("1"), colour.convert("LA"))),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (colour, "PNG", {"exif": exif}),
        *((image, "JPEG", {}) for image in (colour, grey, colour.convert("CMYK"))),
        (colour, "JPEG", {"progressive": True, "exif": exif}),
        (colour, "GIF", {"save_all": True, "append_images": frames[1:]}),
        (colour.convert("P"), "GIF", {"transparency": 0}),
        *((image, "BMP", {}) for image in (colour, alpha, grey, colour.convert("1"), colour.convert("P"))),
        *(
            (colour, "TIFF", {"compression": name})
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
        ),
        *(
            (image, "TIFF", {})
            for image in (alpha, colour.convert("CMYK"), colour.convert("F"), colour.convert("I"))
        ),
        *((image, "WEBP", {}) for image in (colour, alpha)),
        (colour, "WEBP", {"lossless": True, "save_all": True, "append_images": frames[1:]}),
        *((image, "PPM", {}) for image in (colour, grey)),
        *((image, "TGA", {"compression": "tga_rle"}) for image in (colour, alpha, grey)),
        (colour, "ICO", {"sizes": [(16, 16)]}),
        *((colour, kind, {}) for kind in ("PCX", "SGI", "DDS", "JPEG2000", "IM", "MPO", "QOI", "AVIF")),
    ]
    return [data for image, kind, options in wanted if (data := _saved(image, kind, options))]


def repaired(data: bytes) -> bytes:
    """A PNG with right checksums, so that what was changed is looked at; other files as they are."""
    if not data.startswith(_SIGNATURE):
        return data
    out, at = bytearray(_SIGNATURE), len(_SIGNATURE)
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out) + data[at:]


def _saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (OSError, KeyError, ValueError):  # this Pillow cannot write it
        return b""
    return buffer.getvalue()
