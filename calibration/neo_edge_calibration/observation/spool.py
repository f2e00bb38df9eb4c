"""Encoded samples on the disk: pictures are decoded once, however often a run is taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from neo_edge.patch_grid import PatchGrid
from neo_edge_calibration.observation.encoding import EncodedSample
from neo_edge_runtime.preprocessing import SizedImage

_INDEX, _PIXELS = "samples.json", "pixels.bin"


@dataclass(frozen=True)
class _Entry:
    name: str
    input_ids: list[int]
    head_rows: list[int]
    grids: list[tuple[int, int]]  # rows and columns of patches
    shapes: list[tuple[int, int, int]]  # of the pixels
    offset: int  # of the first picture in the file


class SpoolWriter:
    """Writes samples one after another; `close` makes them readable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pixels = (directory / _PIXELS).open("wb")
        self._entries: list[_Entry] = []
        self._digest = hashlib.sha256()

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.close()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, sample: EncodedSample) -> None:
        """Appends one sample."""
        grids = [(image.grid.rows, image.grid.cols) for image in sample.images]
        shapes = [_shape(image.pixels) for image in sample.images]
        ids, rows = sample.input_ids.tolist(), sample.head_rows.tolist()
        offset = self._pixels.tell()
        self._digest.update(json.dumps([ids, rows, grids, shapes]).encode())
        for image in sample.images:
            pixels = np.ascontiguousarray(image.pixels)
            self._pixels.write(pixels.data)
            self._digest.update(pixels.data)
        self._entries.append(_Entry(sample.name, ids, rows, grids, shapes, offset))

    def close(self) -> str:
        """Writes the index; gives the digest of all that the model will be fed."""
        self._pixels.close()
        text = json.dumps([vars(entry) for entry in self._entries])
        (self._directory / _INDEX).write_text(text, encoding="utf-8")
        return self._digest.hexdigest()


class Spool:
    """Samples that `SpoolWriter` wrote; pixels are mapped."""

    def __init__(self, directory: Path) -> None:
        raw = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        self._entries = [_Entry(**entry) for entry in raw]
        self._path = directory / _PIXELS

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[EncodedSample]:
        return (self._sample(entry) for entry in self._entries)

    def _sample(self, entry: _Entry) -> EncodedSample:
        offset, images = entry.offset, []
        for (rows, cols), shape in zip(entry.grids, entry.shapes, strict=True):
            pixels = np.memmap(self._path, np.uint8, mode="r", offset=offset, shape=tuple(shape))
            images.append(SizedImage(pixels, PatchGrid(rows, cols)))
            offset += pixels.nbytes
        return EncodedSample(
            entry.name,
            np.array(entry.input_ids, np.int32),
            np.array(entry.head_rows, np.int32),
            tuple(images),
        )


def _shape(pixels: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    height, width, channels = pixels.shape
    return height, width, channels
