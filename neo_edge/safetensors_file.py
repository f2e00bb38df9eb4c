"""Reads the header of a `.safetensors` file and maps its tensors, without torch.

The format: 8 bytes of header length (little-endian), a JSON header, then the data.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neo_edge.errors import WeightsError

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_DIMENSIONS = 8  # a convolution's weight has 4
_MAX_NUMBERS = 1 << 48  # of one tensor
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MAPPED_DTYPE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor stands on the disk."""

    file: Path
    dtype: str  # as the file says: F32, F16 or BF16
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    size_bytes: int

    def read(self, start: int = 0, stop: int | None = None) -> FloatArray:
        """Rows `start` to `stop` of the first dimension (all of them when not given).

        Returns:
            float32 or float16 as stored, mapped from the file (read-only, no memory of its own);
            bfloat16 is widened to float32, which is exact.

        Raises:
            WeightsError: the file is gone, or shorter than it was.
        """
        row_shape = self.shape[1:]
        start, stop, _ = slice(start, stop).indices(self.shape[0] if self.shape else 1)
        row_items = math.prod(row_shape)
        shape = (max(0, stop - start), *row_shape) if self.shape else ()
        if math.prod(shape) == 0:
            return np.zeros(shape, np.float32)
        try:
            mapped = np.memmap(
                self.file,
                dtype=_MAPPED_DTYPE[self.dtype],
                mode="r",
                offset=self.offset + start * row_items * _ITEM_BYTES[self.dtype],
                shape=shape,
            )
        except (OSError, ValueError) as error:  # gone, or shorter than its header said
            raise WeightsError(
                f"{self.file} changed since its header was read ({error}): fetch it again, and leave it alone meanwhile"
            ) from error
        if self.dtype == "BF16":
            return _widen(mapped)
        return mapped


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one file by name.

    Raises:
        WeightsError: the file is missing, truncated, malformed, or holds a type that is no float checkpoint's; or
            its tensors share bytes, or leave some to nobody, which the format forbids.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise WeightsError(f"{path} is truncated or no safetensors file: fetch it again")
            raw = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist: fetch the checkpoint again") from error
    except (OSError, ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, endless numbers
        raise WeightsError(f"{path} has no readable header ({error}): fetch it again") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path} has a header that is no object: fetch it again")
    data_start = 8 + length
    entries = {
        name: _entry(path, name, value, data_start, size)
        for name, value in raw.items()
        if name != "__metadata__"
    }
    _require_tiling(path, entries, data_start, size)
    return entries


def _require_tiling(path: Path, entries: dict[str, TensorEntry], data_start: int, file_size: int) -> None:
    """Each byte behind the header belongs to one tensor."""
    end, before = data_start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size_bytes)):
        if entry.offset != end:
            what = "overlaps" if entry.offset < end else "does not follow"
            raise WeightsError(
                f"{path}: {name!r} at byte {entry.offset} {what} {before}, which ends at {end}: the header is not "
                "the file's own, fetch the file again"
            )
        end, before = entry.offset + entry.size_bytes, repr(name)
    if end != file_size:
        raise WeightsError(
            f"{path} goes on to byte {file_size} behind {before}, which ends at {end}: fetch the file again"
        )


def _entry(path: Path, name: str, value: object, data_start: int, file_size: int) -> TensorEntry:
    broken = WeightsError(f"{path}: the header's entry for {name!r} is malformed: fetch the file again")
    if not isinstance(value, dict):
        raise broken
    dtype, shape, offsets = (
        value.get("dtype"),
        _counts(value.get("shape")),
        _counts(value.get("data_offsets")),
    )
    if not isinstance(dtype, str) or shape is None or offsets is None:
        raise broken
    if dtype not in _ITEM_BYTES:
        raise WeightsError(
            f"{path}: {name!r} has type {dtype}; float32, float16 and bfloat16 checkpoints are read: "
            "fetch the unquantized one"
        )
    # An empty tensor may claim any breadth, at which numpy gives up.
    if (
        len(offsets) != 2
        or len(shape) > _MAX_DIMENSIONS
        or math.prod(max(1, n) for n in shape) > _MAX_NUMBERS
    ):
        raise broken
    size_bytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size_bytes:
        raise broken
    if data_start + offsets[1] > file_size:
        raise WeightsError(
            f"{path} ends at byte {file_size}, inside {name!r}, which goes to byte "
            f"{data_start + offsets[1]}: the file is truncated, fetch it again"
        )
    return TensorEntry(path, dtype, shape, data_start + offsets[0], size_bytes)


def _counts(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise WeightsError(
            f"a safetensors header names {twice[0]!r} twice ({len(twice)} such names): fetch the checkpoint again"
        )
    return dict(pairs)


def _widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
