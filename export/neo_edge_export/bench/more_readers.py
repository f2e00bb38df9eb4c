"""PyTorch's and ONNX Runtime's ways to read the buffer, for machines where they are faster than numpy's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from neo_edge_runtime.bench.read_bandwidth import ReadBuffer, Readers

_ROW = 2048  # a matrix [K, N] for the products


class WiderReadBuffer(ReadBuffer):
    """Numpy's readers and four more, for as many threads as PyTorch has."""

    def __init__(self, threads: int, size_bytes: int | None = None, folder: Path | None = None) -> None:
        """As `ReadBuffer`; `folder` has room for a copy of the buffer for a moment (None: the system's own)."""
        super().__init__(threads, size_bytes)
        self._matrix = torch.from_numpy(self.values).view(-1, _ROW)
        self._vector = torch.ones(_ROW)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            self._product = _product_session(self.values, threads, Path(scratch))
        self._row = {"x": np.ones((1, _ROW), np.float32)}

    @property
    def readers(self) -> Readers:
        """By name."""
        return {
            **super().readers,
            "torch sum": lambda: torch.sum(self._matrix),
            "torch max": lambda: torch.amax(self._matrix),
            "torch matrix x vector (MKL)": lambda: torch.mv(self._matrix, self._vector),
            "ONNX Runtime, vector x matrix": lambda: self._product.run(None, self._row),
        }


def _product_session(
    buffer: npt.NDArray[np.float32], threads: int, folder: Path
) -> onnxruntime.InferenceSession:
    columns = buffer.size // _ROW
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[_ROW, columns])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="buffer.bin")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "read",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, _ROW])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    buffer.tofile(folder / "buffer.bin")
    onnx.save(model, folder / "read.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        str(folder / "read.onnx"), options, providers=["CPUExecutionProvider"]
    )
