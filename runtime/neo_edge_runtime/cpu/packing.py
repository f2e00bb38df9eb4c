"""Writes a decoder's weights as the kernels read them, slice by slice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from neo_edge_runtime.cpu.layout import (
    LAYOUT_FILE,
    PANEL,
    WEIGHTS_FILE,
    PackedProduct,
    plan_layout,
)
from neo_edge_runtime.cpu.recognition import DecoderWeights, StoredProduct

_SLICE_BYTES = 1 << 24  # of weights, as the graph has them, that are packed at once
_GROUP = 4  # inputs whose weights of one output lie side by side
_SUMMED_ROWS = 256  # this many 8-bit numbers of either sign add up in 16 bits
_UNSIGNED = 128  # what the kernels add to 8-bit activations
_NO_WEIGHTS = 0x88888888  # 4-bit numbers that stand for 0


def pack(weights: DecoderWeights, folder: Path, on_bytes: Callable[[int], object] | None = None) -> None:
    """Writes `decoder.weights` and `decoder.json`; neither is flushed to the disk.

    Args:
        weights: of a graph that was recognized.
        folder: where they are written, over what is there.
        on_bytes: called with the count of each piece of weights written.

    Raises:
        OSError: they cannot be written.
    """
    layout = plan_layout(
        weights.widths, {name: product.storage for name, product in weights.products.items()}
    )
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.truncate(layout.size_bytes)
        for name, packed in layout.products.items():
            _write(file, weights.products[name], packed, on_bytes or (lambda _: None))
        for name, offset in layout.vectors.items():
            _put(file, offset, weights.vectors[name])
    (folder / LAYOUT_FILE).write_text(json.dumps(layout.to_dict(), indent=1) + "\n", encoding="utf-8")


def int8_panels(
    weight: npt.NDArray[np.int8], inputs: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    """Outputs in panels, and the sum of each one's weights.

    Args:
        weight: [K, N].
        inputs: K padded, a multiple of 4.

    Returns:
        [N padded / 16, inputs / 4, 16], four weights in each number, and [N].
    """
    columns = weight.shape[1]
    wide = _padded(columns)
    groups = np.zeros((inputs // _GROUP, wide, _GROUP), np.int8)
    for place in range(_GROUP):
        rows = weight[place::_GROUP]
        groups[: len(rows), :columns, place] = rows
    sums = np.zeros(columns, np.int32)
    for first in range(0, len(weight), _SUMMED_ROWS):
        sums += weight[first : first + _SUMMED_ROWS].sum(axis=0, dtype=np.int16)
    words = groups.view(np.uint32).reshape(-1, wide // PANEL, PANEL)
    return np.ascontiguousarray(words.transpose(1, 0, 2)), sums


def int4_panels(weight: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Outputs in panels.

    Args:
        weight: [N, blocks, block / 2], the earlier input in the low half of a byte.
        scale: [N, blocks].

    Returns:
        [N padded / 16, blocks, 1 + block / 8, 16]: of each block the bits of its scales, then eight weights in each
        number.
    """
    columns, blocks, half_block = weight.shape
    panels, lines = _padded(columns) // PANEL, half_block // _GROUP
    words = np.full((panels * PANEL, blocks * lines), _NO_WEIGHTS, np.uint32)
    words[:columns] = np.ascontiguousarray(weight).view("<u4").reshape(columns, -1)
    # Inputs 01234567 of each number become 04152637: first its middle bytes change places, then the middle halves of
    # both its words.
    for distance, mask in ((8, 0x0000FF00), (4, 0x00F000F0)):
        moved = words >> distance
        moved ^= words
        moved &= mask
        words ^= moved
        moved <<= distance
        words ^= moved
    packed = np.zeros((panels, blocks, 1 + lines, PANEL), np.uint32)
    packed[:, :, 1:] = words.reshape(panels, PANEL, blocks, lines).transpose(0, 2, 3, 1)
    scales = np.zeros((panels * PANEL, blocks), np.float32)
    scales[:columns] = scale
    packed.view(np.float32)[:, :, 0] = scales.reshape(panels, PANEL, blocks).transpose(0, 2, 1)
    return packed


def _write(
    file: BinaryIO, product: StoredProduct, packed: PackedProduct, on_bytes: Callable[[int], object]
) -> None:
    weight, scale = product.weight, product.scale.view(np.float32)
    panels = max(1, _SLICE_BYTES // packed.panel_bytes)
    for first in range(0, packed.outputs // PANEL, panels):
        columns = slice(first * PANEL, min((first + panels) * PANEL, product.outputs))
        if packed.scales_offset is None or packed.corrections_offset is None:
            data = int4_panels(weight[columns].view(np.uint8), scale[columns])
        else:
            data, sums = int8_panels(weight[:, columns].view(np.int8), packed.inputs)
            _put(file, packed.scales_offset + 4 * columns.start, scale[columns])
            _put(file, packed.corrections_offset + 4 * columns.start, sums * np.int32(_UNSIGNED))
        _put(file, packed.weights_offset + first * packed.panel_bytes, data)
        on_bytes(data.nbytes)


def _put(file: BinaryIO, offset: int, array: npt.NDArray[np.generic]) -> None:
    file.seek(offset)
    file.write(np.ascontiguousarray(array).data)


def _padded(columns: int) -> int:
    return -(-columns // PANEL) * PANEL
