"""Pillow's bicubic resize as a table of whole-number weights, for devices that resize by themselves.

Pillow resizes 8-bit pictures along x and then along y. An output is the sum of its inputs times weights of 22
fractional bits, rounded and cut to 0..255; so equal tables give equal pixels, everywhere. Pillow 13 takes y first for
some pictures, such as those more than twice as tall as wide: there a pixel may differ by one level of 255.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

WEIGHT_BITS = 22
_A = -0.5  # of the cubic, as Pillow
_RADIUS = 2.0  # input pixels on each side, where nothing shrinks


@lru_cache(maxsize=32)
def bicubic_table(size: int, target: int) -> npt.NDArray[np.int32]:
    """[target, 2 + taps]: first input, how many inputs, and their weights, zeros behind them; not to be written to.

    Args:
        size: pixels along the axis.
        target: pixels that are wanted; equal to `size`, the weights are 0 and 1.
    """
    scale = size / target
    shrink = max(scale, 1.0)
    radius = _RADIUS * shrink
    taps = math.ceil(radius) * 2 + 1
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum(np.trunc(center - radius + 0.5), 0).astype(np.int64)
    count = np.minimum(np.trunc(center + radius + 0.5), size).astype(np.int64) - first
    tap = np.arange(taps)
    weights = _cubic((tap[None] + first[:, None] - center[:, None] + 0.5) * (1.0 / shrink))
    weights[tap[None] >= count[:, None]] = 0.0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # in Pillow's order, so that the last bit is the same
    table = np.zeros((target, 2 + taps), np.int32)
    table[:, 0], table[:, 1] = first, count
    table[:, 2:] = np.trunc(weights * (1 << WEIGHT_BITS) + np.where(weights < 0, -0.5, 0.5))
    table.flags.writeable = False
    return table


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.abs(distance)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _A
    found: npt.NDArray[np.float64] = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return found
