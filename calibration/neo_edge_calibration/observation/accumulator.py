"""Adds up one group's statistics as its rows come by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neo_edge.errors import StatisticsError
from neo_edge_calibration.clipping import BINS, Method
from neo_edge_calibration.statistics import GroupStatistics

_BLOCK_ROWS = 256  # temporaries of a wide layer then stay at a few megabytes
_SMALLEST_TOP = 2.0**-100
_FLOAT16_SAFE = 60_000.0


class Accumulator:
    """Statistics of an activation tensor; the sums are in float64, in the order of the rows."""

    def __init__(self, name: str, weights: tuple[str, ...]) -> None:
        self.name, self.weights = name, weights
        self._rows_seen = 0
        self._counts = np.zeros(BINS, np.int64)
        self._top = _SMALLEST_TOP
        self._kept: list[npt.NDArray[np.float32]] = []

    def update(self, values: npt.NDArray[np.floating], kept: npt.NDArray[np.integer], sample: str) -> None:
        """Takes the rows of one sample.

        Args:
            values: [rows, K], or with more dimensions before K.
            kept: rows to keep as they are.
            sample: its name, for messages.

        Raises:
            StatisticsError: NaN or infinity.
        """
        rows = values.reshape(-1, values.shape[-1])
        if not self._rows_seen:
            self._allocate(rows.shape[1])
        for start in range(0, len(rows), _BLOCK_ROWS):
            self._add(rows[start : start + _BLOCK_ROWS].astype(np.float32, copy=False), sample)
        if len(kept):
            self._kept.append(rows[kept].astype(np.float32))

    def finish(self, method: Method) -> GroupStatistics:
        """What was gathered.

        Raises:
            StatisticsError: no row came, or every row was the same.
        """
        if not self._rows_seen:
            raise StatisticsError(f"{self.name} was never computed: the data reach no product of that group")
        if np.array_equal(self._lowest, self._highest):
            what = "is 0 everywhere" if not self._amax.any() else "is the same in every row"
            raise StatisticsError(
                f"{self.name} {what} ({self._rows_seen} rows of {len(self._amax)} channels), so nothing can be learnt "
                "from it: look at the data (blank pictures?) and at the weights before it"
            )
        rows = np.concatenate(self._kept)
        small = float(self._amax.max()) < _FLOAT16_SAFE
        return GroupStatistics(
            weights=self.weights,
            rows_seen=self._rows_seen,
            channel_amax=self._amax,
            channel_mean_abs=(self._sum_abs / self._rows_seen).astype(np.float32),
            channel_mean_square=(self._sum_square / self._rows_seen).astype(np.float32),
            histogram=self._counts,
            histogram_max=self._top,
            rows=rows.astype(np.float16) if small else rows,
            method=method,
        )

    def _allocate(self, channels: int) -> None:
        self._amax = np.zeros(channels, np.float32)
        self._lowest = np.full(channels, np.inf, np.float32)
        self._highest = np.full(channels, -np.inf, np.float32)
        self._sum_abs, self._sum_square = np.zeros(channels), np.zeros(channels)

    def _add(self, rows: npt.NDArray[np.float32], sample: str) -> None:
        if not np.isfinite(rows).all():
            bad = int(np.count_nonzero(~np.isfinite(rows)))
            raise StatisticsError(
                f"{self.name} holds {bad} NaN or infinite numbers for {sample}: the weights are damaged, or float16 "
                "overflows; check the bundle with neo-edge verify, and calibrate an fp32 variant"
            )
        self._rows_seen += len(rows)
        np.minimum(self._lowest, rows.min(axis=0), out=self._lowest)
        np.maximum(self._highest, rows.max(axis=0), out=self._highest)
        magnitudes = np.abs(rows)
        np.maximum(self._amax, magnitudes.max(axis=0), out=self._amax)
        self._sum_abs += magnitudes.sum(axis=0, dtype=np.float64)
        self._sum_square += np.square(rows, dtype=np.float64).sum(axis=0)
        self._make_room(float(magnitudes.max()))
        # A power of two scales exactly, so it does not matter at which width of bins a number came.
        magnitudes *= np.float32(BINS / self._top)
        self._counts += np.bincount(magnitudes.ravel().astype(np.intp), minlength=BINS)

    def _make_room(self, maximum: float) -> None:
        """Doubles the bins' width, two becoming one, until the largest magnitude is below the top."""
        while maximum >= self._top:
            self._top *= 2
            self._counts[: BINS // 2] = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[BINS // 2 :] = 0
