"""The scale of each column that rounds it with the least squared error; vectorized over columns, block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

# Where the largest weight of a column lands, as a share of the type's largest number. Each is followed by the best
# scale for the rounding that it gives, so a coarse grid is enough: of the error's root on the nano's weights 20 steps
# would take off another 0.3 %.
INT4_SHARES = (1.08, 1.0, 0.93, 0.875, 0.82, 0.76, 0.7, 0.6)
INT8_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6)
_TINY = float(np.finfo(np.float32).tiny)


def largest_scale(amax: Vector, largest: int) -> Vector:
    """[N] strictly positive: `amax` [N] becomes `largest`; 1 where a column holds only zeros."""
    scale: Vector = np.where(amax > 0, np.maximum(amax / np.float32(largest), _TINY), np.float32(1))
    return scale


def searched_scale(
    weight: Matrix, importance: Vector | None, lowest: int, largest: int, shares: tuple[float, ...]
) -> Vector:
    """The best of several clippings of each column.

    For the integers q that a clipping gives, the sum of h (w - s q)^2 is least at s = sum(h w q) / sum(h q^2), where
    it is sum(h w^2) - sum(h w q)^2 / sum(h q^2): so each clipping is judged at its best scale, and the winner's is
    taken. Rounding with it again can only lower the error.

    Args:
        weight: [K, N] float32, finite.
        importance: [K] positive, the h above; all 1 when None.
        lowest: the type's smallest integer.
        largest: its largest.
        shares: clippings, each as a share of the column's largest magnitude.

    Returns:
        [N] float32, strictly positive.
    """
    largest_fits = largest_scale(np.abs(weight).max(axis=0), largest)
    steps = weight / largest_fits  # so that no square leaves float32's range
    weighted = steps if importance is None else steps * importance[:, None]
    best, best_gain = np.ones_like(largest_fits), np.zeros_like(largest_fits)
    rounded = np.empty_like(steps)
    for share in shares:
        np.multiply(steps, np.float32(1 / share), out=rounded)
        np.rint(rounded, out=rounded)
        np.clip(rounded, lowest, largest, out=rounded)
        product = np.einsum("kn,kn->n", weighted, rounded)
        if importance is None:
            square = np.einsum("kn,kn->n", rounded, rounded)
        else:
            square = importance @ np.square(rounded, out=rounded)
        fitted = product / np.maximum(square, _TINY)
        gain = product * fitted
        better = gain > best_gain
        best = np.where(better, fitted, best)
        best_gain = np.where(better, gain, best_gain)
    scale: Vector = np.maximum(largest_fits * best, _TINY)
    return scale


def rounded_to(weight: Matrix, scale: Vector, lowest: int, largest: int) -> Matrix:
    """The nearest integers to `weight` / `scale` within the type, as float32."""
    rounded = weight / scale
    np.rint(rounded, out=rounded)
    return np.clip(rounded, lowest, largest, out=rounded)
