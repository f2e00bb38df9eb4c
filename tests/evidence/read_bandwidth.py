"""Several ways to read memory as fast as possible; the fastest is what decoding is held to.

Each reads a buffer far larger than the caches, once, from front to back, with as many threads as the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

BUFFER_BYTES = 2 << 30
_ROW = 2048  # a matrix [K, N] for the products


class ReadBandwidth:
    """Readers of one buffer; each call reads `BUFFER_BYTES`."""

    def __init__(self, threads: int, folder: Path) -> None:
        """`folder` receives the buffer as the weight of a one-product graph, which is loaded and deleted."""
        self._threads = threads
        count = BUFFER_BYTES // 4
        self._buffer = np.empty(count, np.float32)
        torch.from_numpy(self._buffer).uniform_(-1, 1)
        self._matrix = torch.from_numpy(self._buffer).view(-1, _ROW)
        self._vector = torch.ones(_ROW)
        self._pool = ThreadPoolExecutor(threads)
        self._parts = np.array_split(self._buffer, threads)
        self._product = _product_session(self._buffer, threads, folder)
        self._row = {"x": np.ones((1, _ROW), np.float32)}

    @property
    def readers(self) -> dict[str, Callable[[], object]]:
        """By name."""
        return {
            "numpy max, one thread a part": lambda: self._in_threads(np.max),
            "numpy dot (OpenBLAS), one thread a part": lambda: self._in_threads(_dot_itself),
            "torch sum": lambda: torch.sum(self._matrix),
            "torch max": lambda: torch.amax(self._matrix),
            "torch matrix x vector (MKL)": lambda: torch.mv(self._matrix, self._vector),
            "ONNX Runtime, vector x matrix": lambda: self._product.run(None, self._row),
        }

    def _in_threads(self, read: Callable[[npt.NDArray[np.float32]], object]) -> None:
        list(self._pool.map(read, self._parts))


def _dot_itself(part: npt.NDArray[np.float32]) -> object:
    return np.dot(part, part)


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
    path, data = folder / "read.onnx", folder / "buffer.bin"
    buffer.tofile(data)
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.unlink()
    data.unlink()
    return session
