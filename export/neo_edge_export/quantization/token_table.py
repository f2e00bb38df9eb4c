"""The token embedding in int8: a scale for each row, which the host multiplies with when it looks a token up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from neo_edge.manifest import TokenEmbedding
from neo_edge_export.quantization.weight_rounding import round_int8

_BLOCK_BYTES = 16 << 20


def write_int8_table(rows: npt.NDArray[np.generic], folder: Path, name: str) -> TokenEmbedding:
    """Writes `token_embedding.bin` and `token_embedding_scale.bin`.

    Args:
        rows: [V, hidden] float, mapped; read in blocks.
        folder: where the files go.
        name: of the folder in the bundle.

    Raises:
        QuantizationError: the table holds NaN or infinity.
        OSError: the files cannot be written.
    """
    vocab, hidden = rows.shape
    step = max(1, _BLOCK_BYTES // (4 * hidden))
    values_path, scale_path = folder / "token_embedding.bin", folder / "token_embedding_scale.bin"
    with values_path.open("wb") as values, scale_path.open("wb") as scales:
        for start in range(0, vocab, step):
            block = np.asarray(rows[start : start + step], np.float32)
            found = round_int8(
                block.T, name="token_embedding"
            )  # its outputs, which get a scale each, are tokens
            values.write(np.ascontiguousarray(found.values.T).data)
            scales.write(found.scale.astype("<f4").data)
    return TokenEmbedding(f"{name}/{values_path.name}", "int8", (vocab, hidden), f"{name}/{scale_path.name}")
