"""NVIDIA Model Optimizer, run by the peer's own interpreter, which has `modelopt`.

    python modelopt_worker.py JOB.json

The job has `source`, `target`, `feeds` (npz files), `mode` (int8 or int4), `method`, `nodes` (to quantize), `exclude`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Reader:
    """Calibration data, rewound as often as it is asked for."""

    def __init__(self, feeds: list[str]) -> None:
        self._feeds, self._next = feeds, 0

    def get_next(self) -> dict[str, Any] | None:
        """The next run's arrays; None behind the last."""
        if self._next == len(self._feeds):
            return None
        with np.load(self._feeds[self._next]) as arrays:
            self._next += 1
            return dict(arrays)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every run's arrays; awq wants them so."""
        for path in self._feeds:
            with np.load(path) as arrays:
                yield dict(arrays)

    def __len__(self) -> int:
        """How many runs."""
        return len(self._feeds)

    def rewind(self) -> None:
        """From the first again."""
        self._next = 0

    def get_first(self) -> dict[str, Any]:
        """The first run's arrays."""
        with np.load(self._feeds[0]) as arrays:
            return dict(arrays)


def of_one_length(feeds: list[str]) -> list[str]:
    """Those of the most frequent number of tokens: awq puts all runs' activations into one array."""
    lengths = {}
    for path in feeds:
        with np.load(path) as arrays:
            lengths[path] = arrays["inputs_embeds"].shape[1]
    most = Counter(lengths.values()).most_common(1)[0][0]
    return [path for path, length in lengths.items() if length == most]


def main(job: dict[str, Any]) -> None:
    """Quantizes one graph."""
    quantize = importlib.import_module("modelopt.onnx.quantization").quantize
    importlib.import_module("onnxruntime.quantization.calibrate").CalibrationDataReader.register(Reader)
    if job["method"].startswith("awq"):
        job["feeds"] = of_one_length(job["feeds"])
    options: dict[str, Any] = {}
    if job["mode"] == "int8":
        options = {
            "nodes_to_quantize": job["nodes"],
            "disable_mha_qdq": True,
            "op_types_to_quantize": ["MatMul"],
        }
    else:
        options = {"block_size": job["block_size"], "nodes_to_exclude": job["exclude"]}
    quantize(
        job["source"],
        quantize_mode=job["mode"],
        calibration_method=job["method"],
        calibration_data_reader=Reader(job["feeds"]),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=job["target"],
        log_level="WARNING",
        **options,
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
