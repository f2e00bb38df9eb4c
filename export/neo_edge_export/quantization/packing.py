"""Small integers as the bytes that graphs store: ONNX's INT4 tensors and MatMulNBits' blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neo_edge_export.quantization.weight_rounding import RoundedInt4, RoundedInt8

Bytes = npt.NDArray[np.uint8]
_SLICE = 1 << 22  # numbers that are widened or transposed at once


def pack_int4(values: npt.NDArray[np.int8]) -> Bytes:
    """An ONNX INT4 tensor's raw data: two numbers a byte in row-major order, the first in the low half.

    Args:
        values: [...] int8 in [-8, 7].

    Returns:
        [ceil(size / 2)] uint8; an odd count leaves the last high half 0.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    packed = np.zeros(-(-flat.size // 2), np.uint8)
    for start in range(0, flat.size, _SLICE):
        low, high = (flat[start + half : start + _SLICE : 2].view(np.uint8) & 15 for half in (0, 1))
        packed[start // 2 : start // 2 + low.size] = low
        packed[start // 2 : start // 2 + high.size] |= high << 4
    return packed


def unpack_int4(packed: Bytes, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """What `pack_int4` packed, in the tensor's shape."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
    return ((halves ^ 8).astype(np.int8) - 8).reshape(shape)


def pack_matmul_nbits_4(weight: RoundedInt4) -> tuple[Bytes, npt.NDArray[np.float32]]:
    """Weight and scales as MatMulNBits (bits=4, block_size=group_size, no zero points) reads them.

    Its numbers are 0 to 15 around 8; a shorter last group is filled up with 8, which stands for 0.

    Returns:
        [N, groups, group_size / 2] uint8 and [N, groups] float32.
    """
    blocks = _blocks(weight.values, weight.group_size, 8)
    packed: Bytes = np.left_shift(blocks[..., 1::2], 4, dtype=np.uint8)
    packed |= blocks[..., 0::2]
    return packed, np.ascontiguousarray(weight.scale.T)


def pack_matmul_nbits_8(weight: RoundedInt8, block_size: int) -> tuple[Bytes, npt.NDArray[np.float32]]:
    """The same for bits=8; each block of an output gets that output's scale.

    Returns:
        [N, blocks, block_size] uint8 around 128 and [N, blocks] float32.
    """
    blocks = _blocks(weight.values, block_size, 128)
    return blocks, np.repeat(weight.scale[:, None], blocks.shape[1], axis=1)


def _blocks(values: npt.NDArray[np.int8], block_size: int, zero: int) -> Bytes:
    """[N, blocks, block_size] uint8: columns as rows, shifted by `zero` and filled up with it."""
    inputs, outputs = values.shape
    blocks = np.full((outputs, -(-inputs // block_size) * block_size), zero, np.uint8)
    step = max(1, _SLICE // inputs)
    for start in range(0, outputs, step):
        part = values[:, start : start + step].view(np.uint8) + np.uint8(
            zero
        )  # wraps, as two's complement does
        blocks[start : start + step, :inputs] = part.T
    return blocks.reshape(outputs, -1, block_size)
