"""Scales that smoothing moves between neighbours: exact in real numbers, so the float model stays what it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """What a weight [K, N] is multiplied by before it is rounded."""

    inputs: Vector | None = None  # [K]: the smoothing of its own input
    outputs: Vector | None = None  # [N]: one over the smoothing of the input that it feeds

    def apply(self, part: Matrix, columns: slice) -> Matrix:
        """Some columns of the weight, scaled."""
        if self.inputs is not None:
            part = part * self.inputs[:, None]
        if self.outputs is not None:
            part = part * self.outputs[columns]
        return part


NO_FOLD = Fold()
