"""How far a quantized product is from its float one, on inputs that calibration has seen."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from neo_edge_export.quantization.product_simulation import Activations, rounded_rows

Matrix = npt.NDArray[np.float32]


class ProductError:
    """Adds up signal and noise of one product, slice of columns after slice."""

    def __init__(self, rows: Matrix | None, activations: Activations, clip: float | None = None) -> None:
        """Remembers the inputs.

        Args:
            rows: [R, K], smoothed, as the product gets them; None without calibration, and then there is no figure.
            activations: what becomes of them in the quantized graph.
            clip: of one scale per tensor: the magnitude that becomes 127.
        """
        self._rows = rows
        self._seen = None if rows is None else rounded_rows(rows, activations, clip)
        self._signal = self._noise = 0.0

    def add(self, weight: Matrix, stored: Matrix) -> None:
        """Some columns of the weight, and what they are after rounding."""
        if self._rows is None or self._seen is None:
            return
        wanted = self._rows @ weight
        self._signal += float(np.square(wanted, dtype=np.float64).sum())
        self._noise += float(np.square(self._seen @ stored - wanted, dtype=np.float64).sum())

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels, infinite when nothing was lost; None when nothing was seen."""
        if self._signal <= 0:
            return None
        return 10 * math.log10(self._signal / self._noise) if self._noise > 0 else math.inf
