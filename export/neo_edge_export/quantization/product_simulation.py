"""How far products are off when their inputs and weights are rounded, for any smoothing of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from neo_edge_export.quantization.weight_rounding import round_int4, round_int8

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]
Activations = Literal["token", "tensor", "float"]

# Of the largest activation that was seen; more than 1 leaves room for larger ones.
_CLIP_SHARES = (1.8, 1.5, 1.3, 1.15, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.22, 0.16)
_LARGEST = 127


class InputStatistics(Protocol):
    """What calibration has seen go into some products; `GroupStatistics` is one."""

    @property
    def rows_seen(self) -> int:
        """How many rows the other figures are of."""
        ...

    @property
    def channel_amax(self) -> npt.NDArray[np.floating]:
        """[K] the largest magnitude of each channel."""
        ...

    @property
    def channel_mean_square(self) -> npt.NDArray[np.floating]:
        """[K] the mean square of each channel."""
        ...

    @property
    def rows(self) -> npt.NDArray[np.floating]:
        """[R, K] a sample of the rows."""
        ...


@dataclass(frozen=True)
class Measured:
    """One way to smooth, and its error."""

    alpha: float
    scales: Vector  # [K]
    clip: float | None
    error: float


class ProductSimulation:
    """The float products of some rows, to which rounded ones are compared."""

    def __init__(
        self,
        statistics: InputStatistics,
        weights: Sequence[Matrix],
        activations: Activations,
        group_size: int | None,
    ) -> None:
        """Arguments as of `search_smoothing`."""
        self._rows = np.asarray(statistics.rows, np.float32)
        self._amax = np.asarray(statistics.channel_amax, np.float32)
        self._mean_square = np.asarray(statistics.channel_mean_square, np.float32)
        self._rows_seen = max(statistics.rows_seen, 1)
        self._weights, self._group_size = weights, group_size
        self._activations: Activations = activations
        self._excess = _excess(self._rows, self._amax, self._rows_seen)
        self._wanted = [self._rows @ weight for weight in weights]
        self._power = [_mean_square(wanted) or 1.0 for wanted in self._wanted]
        # What a squared error in each channel costs: its weights' squares, each weight's outputs taken relatively.
        self._costs = np.mean(
            [
                np.square(weight).sum(axis=1, dtype=np.float64) / (power * weight.shape[1])
                for weight, power in zip(weights, self._power, strict=True)
            ],
            axis=0,
        )

    def measure(self, alpha: float, scales: Vector) -> Measured:
        """The error when inputs are divided by `scales` [K]."""
        rows = self._rows / scales
        clip, beyond = self._searched_clip(rows, scales) if self._activations == "tensor" else (None, 0.0)
        seen = rounded_rows(rows, self._activations, clip)
        errors = [
            _mean_square(seen @ self._rounded(weight, scales) - wanted) / power
            for weight, wanted, power in zip(self._weights, self._wanted, self._power, strict=True)
        ]
        return Measured(alpha, scales, clip, float(np.mean(errors)) + beyond)

    def _rounded(self, weight: Matrix, scales: Vector) -> Matrix:
        smoothed = weight * scales[:, None]
        if self._group_size is None:
            return round_int8(smoothed).dequantized()
        importance = (self._mean_square / np.square(scales)).astype(np.float32)
        return round_int4(smoothed, self._group_size, importance=importance).dequantized()

    def _searched_clip(self, rows: Matrix, scales: Vector) -> tuple[float, float]:
        """The clipping of least error, and the error that it adds on rows which are not in the sample.

        Errors of different channels are taken as independent here.
        """
        costs = self._costs * np.square(scales, dtype=np.float64)
        reach = max(float((self._amax / scales).max()), float(np.abs(rows).max()))
        if not reach > 0:
            return 1.0, 0.0
        best, best_error, best_beyond = reach, np.inf, 0.0
        for share in _CLIP_SHARES:
            clip = share * reach
            lost = np.square(rounded_rows(rows, "tensor", clip) - rows).mean(axis=0, dtype=np.float64)
            beyond = float(self._unseen(clip * scales) @ self._costs)
            error = float(lost @ costs) + beyond
            if error < best_error:
                best, best_error, best_beyond = clip, error, beyond
        return best, best_beyond

    def _unseen(self, clips: Vector) -> npt.NDArray[np.float64]:
        """[K] mean square of what lies beyond `clips` [K] in rows that are not in the sample.

        A channel's largest number A is taken to come once in the rows that were seen, and a larger one as often,
        by an exponentially distributed excess of mean b: the square of A + excess - clip has the mean
        (A - clip)^2 + 2 b (A - clip) + 2 b^2, and 2 b^2 exp(-(clip - A) / b) where the clip is larger than A.
        """
        short = np.maximum(self._amax - clips, 0).astype(np.float64)
        spare = np.maximum(clips - self._amax, 0).astype(np.float64)
        outside = 1 - min(len(self._rows) / self._rows_seen, 1.0)
        square = outside * np.square(short) + 2 * self._excess * short
        square += 2 * np.square(self._excess) * np.exp(-spare / self._excess)
        unseen: npt.NDArray[np.float64] = square / self._rows_seen
        return unseen


def _excess(rows: Matrix, amax: Vector, rows_seen: int) -> npt.NDArray[np.float64]:
    """[K] how far a number beyond the largest seen one lies beyond it, in the mean.

    The tail is taken as exponential from the sample's largest eighth to the largest of all.
    """
    share = 8
    usual = np.quantile(np.abs(rows), 1 - 1 / share, axis=0)
    excess = (amax - usual) / np.log(max(rows_seen / share, np.e))
    positive: npt.NDArray[np.float64] = np.maximum(excess, 1e-3 * amax + 1e-30, dtype=np.float64)
    return positive


def rounded_rows(rows: Matrix, activations: Activations, clip: float | None = None) -> Matrix:
    """Inputs [R, K] after int8: with a scale per row, or one scale that makes `clip` 127."""
    if activations == "float":
        return rows
    if activations == "token":
        step = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(_LARGEST)
    else:
        assert clip is not None
        step = np.float32(clip / _LARGEST)
    rounded: Matrix = np.clip(np.rint(rows / step), -_LARGEST - 1, _LARGEST) * step
    return rounded


def _mean_square(matrix: npt.NDArray[np.floating]) -> float:
    return float(np.square(matrix, dtype=np.float64).mean())
