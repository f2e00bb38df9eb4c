"""Where to clip activations before they are rounded to int8: three ways to choose one number for a tensor.

All of them look at a histogram of magnitudes over [0, top]; within a bin magnitudes count as evenly spread.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Method = Literal["max", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 2048  # of a histogram
PERCENTILE = 99.99  # of all magnitudes; TensorRT's own calibration took it
_LEVELS = 127  # of a symmetric int8, on each side of zero
_NARROWER: npt.NDArray[np.float64] = 0.985 ** np.arange(
    400, dtype=np.float64
)  # candidates for the mse range, relative to the maximum: down to 1/420


def clipping_range(
    counts: npt.NDArray[np.int64], top: float, maximum: float, method: Method, *, levels: int = _LEVELS
) -> float:
    """The magnitude to clip at.

    Args:
        counts: [bins] magnitudes in each of the equal parts of [0, top].
        top: upper edge of the last bin.
        maximum: the largest magnitude, at most `top`.
        method: `max` clips nothing; `percentile` clips one number in 10,000; `mse` is where clipping and rounding
            together lose least.
        levels: positive integers of the type, 127 for int8.
    """
    if method == "max" or not counts.any():
        return maximum
    if method == "percentile":
        return min(maximum, _percentile(counts, top))
    return _least_squares(counts, top, maximum, levels)


def mean_square_error(
    counts: npt.NDArray[np.int64], top: float, clip: npt.NDArray[np.float64] | float, levels: int = _LEVELS
) -> npt.NDArray[np.float64]:
    """What rounding to `levels` steps on each side of zero, clipped at `clip`, adds: the mean squared error.

    Exact for magnitudes that are spread evenly within each bin.

    Args:
        counts: [bins].
        top: upper edge of the last bin.
        clip: one magnitude, or [n] of them.
        levels: as in `clipping_range`.

    Returns:
        One error for each `clip`.
    """
    edges = np.linspace(0, top, len(counts) + 1)
    clips = np.atleast_1d(np.asarray(clip, np.float64))[:, None]
    up_to = _error_integral(edges[None, :], clips, levels)
    density = counts / (edges[1] - edges[0])
    errors: npt.NDArray[np.float64] = (np.diff(up_to, axis=1) * density).sum(axis=1) / counts.sum()
    return errors


def _percentile(counts: npt.NDArray[np.int64], top: float) -> float:
    wanted = counts.sum() * PERCENTILE / 100
    below = np.cumsum(counts)
    bin_index = int(np.searchsorted(below, wanted))
    before = below[bin_index] - counts[bin_index]
    return float((bin_index + (wanted - before) / counts[bin_index]) * top / len(counts))


def _least_squares(counts: npt.NDArray[np.int64], top: float, maximum: float, levels: int) -> float:
    candidates: npt.NDArray[np.float64] = np.float64(maximum) * _NARROWER
    errors = [mean_square_error(counts, top, part, levels) for part in np.split(candidates, 16)]
    return float(candidates[np.argmin(np.concatenate(errors))])


def _error_integral(
    x: npt.NDArray[np.float64], clip: npt.NDArray[np.float64], levels: int
) -> npt.NDArray[np.float64]:
    """The integral of (t - rounded(t))^2 over t from 0 to x.

    In units of a step, each whole step adds 1/12 and the part of one that is left, from -1/2 to 1/2, a third of its
    cube; beyond the last level the distance to it counts.
    """
    step = clip / levels
    inside = np.minimum(x, clip) / step
    whole = np.rint(inside)
    rounding = (whole / 12 + (inside - whole) ** 3 / 3) * step**3
    clipping = np.maximum(x - clip, 0) ** 3 / 3
    total: npt.NDArray[np.float64] = rounding + clipping
    return total
