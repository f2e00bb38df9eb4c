"""NVIDIA Model Optimizer, run by the peer's own interpreter, which has `modelopt`.

    python modelopt_worker.py JOB.json

The job has `source`, `target`, `feeds` (npz files), `mode` (int8 or int4), `method`, `nodes` (to quantize), `exclude`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx


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


class TokenRows:
    """A session for awq, which asks for the inputs of one product after another, each time with all the data.

    It keeps what a run gave for the next product. Activations [1, S, K] come out as [S, K], since awq joins those of
    all runs along the first axis.
    """

    def __init__(self, session: Any, results: Sequence[str]) -> None:
        """`results` are the outputs that the graph has without awq."""
        self._session = session
        self._inputs = [output.name for output in session.get_outputs() if output.name not in results]
        self._kept: dict[int, dict[str, Any]] = {}

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        """As a session does."""
        key = id(feed["inputs_embeds"])  # awq holds all data as long as the session
        if key not in self._kept:
            found = self._session.run(self._inputs, feed)
            self._kept[key] = {
                name: array.reshape(-1, array.shape[-1])
                for name, array in zip(self._inputs, found, strict=True)
            }
        return [self._kept[key][name] for name in names]


def main(job: dict[str, Any]) -> None:
    """Quantizes one graph."""
    quantize = importlib.import_module("modelopt.onnx.quantization").quantize
    importlib.import_module("onnxruntime.quantization.calibrate").CalibrationDataReader.register(Reader)
    if job["method"].startswith("awq"):
        int4: Any = importlib.import_module("modelopt.onnx.quantization.int4")
        create = int4.create_inference_session
        results = [output.name for output in onnx.load(job["source"], load_external_data=False).graph.output]
        int4.create_inference_session = lambda *arguments: TokenRows(create(*arguments), results)
    options: dict[str, Any] = {}
    if job["mode"] == "int8":
        options = {
            "nodes_to_quantize": job["nodes"],
            "disable_mha_qdq": True,
            "op_types_to_quantize": ["MatMul"],
        }
    else:
        options = {
            "block_size": job["block_size"],
            "nodes_to_exclude": job["exclude"],
            "awqlite_fuse_nodes": False,  # fusing needs cupy; each product has scales of its own instead
        }
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
