"""The decoder's matrix products and nothing else, in one ONNX Runtime graph over the same weight file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Product:
    """One MatMul of the decoder: x [rows, K] by a constant weight [K, N]."""

    weight: TensorProto  # its numbers are in the graph's external data

    @property
    def inputs(self) -> int:
        """K."""
        return int(self.weight.dims[0])

    @property
    def outputs(self) -> int:
        """N."""
        return int(self.weight.dims[1])

    @property
    def is_head(self) -> bool:
        """Whether it makes logits, which only one row of a prefill needs."""
        return "lm_head" in self.weight.name


class BareMatMuls:
    """Runs every product of a decoder graph once, in the decoder's order.

    Each is a graph output of its own, so none can be left out; products of one width write to one array.
    """

    def __init__(self, decoder: Path, threads: int, folder: Path) -> None:
        """Reads the graph `decoder`; `folder` receives a graph and a hard link to its weights."""
        graph = onnx.load(decoder, load_external_data=False).graph
        weights = {weight.name: weight for weight in graph.initializer}
        self.products = [
            Product(weights[node.input[1]])
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in weights
        ]
        data = folder / f"{decoder.name}.data"
        data.unlink(missing_ok=True)
        os.link(decoder.with_name(data.name), data)
        path = folder / "bare_matmuls.onnx"
        onnx.save(_graph(self.products), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.unlink()
        data.unlink()

    def flops(self, rows: int) -> float:
        """Of one run over `rows` tokens; the head makes one row."""
        return sum(2.0 * (1 if each.is_head else rows) * each.inputs * each.outputs for each in self.products)

    def runner(self, rows: int) -> Callable[[], object]:
        """A function that runs all products over `rows` random rows."""
        rng = np.random.default_rng(0)
        io = self._session.io_binding()
        for width, is_head in {(each.inputs, each.is_head) for each in self.products}:
            x = rng.standard_normal((1 if is_head else rows, width), np.float32)
            io.bind_ortvalue_input(_input(width, is_head), onnxruntime.OrtValue.ortvalue_from_numpy(x))
        outputs: dict[int, npt.NDArray[np.float32]] = {}
        for number, each in enumerate(self.products):
            shape = (1 if each.is_head else rows, each.outputs)
            y = outputs.setdefault(each.outputs, np.empty(shape, np.float32))
            io.bind_ortvalue_output(f"y{number}", onnxruntime.OrtValue.ortvalue_from_numpy(y))
        return lambda: self._session.run_with_iobinding(io)


def _graph(products: list[Product]) -> onnx.ModelProto:
    widths = sorted({(each.inputs, each.is_head) for each in products})
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [_input(each.inputs, each.is_head), each.weight.name], [f"y{number}"])
            for number, each in enumerate(products)
        ],
        "bare_matmuls",
        [
            helper.make_tensor_value_info(_input(width, head), TensorProto.FLOAT, [_rows(head), width])
            for width, head in widths
        ],
        [
            helper.make_tensor_value_info(
                f"y{number}", TensorProto.FLOAT, [_rows(each.is_head), each.outputs]
            )
            for number, each in enumerate(products)
        ],
        [each.weight for each in products],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _input(width: int, is_head: bool) -> str:
    return f"head{width}" if is_head else f"x{width}"


def _rows(is_head: bool) -> str:
    return "logits_rows" if is_head else "sequence"
