"""The decoder's matrix products and nothing else, in one ONNX Runtime graph over the same weight file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper

PRODUCTS = ("MatMul", "MatMulIntegerToFloat", "MatMulNBits")


@dataclass(frozen=True)
class Product:
    """One product of the decoder: x [rows, K] by a constant weight [K, N], however that is stored."""

    node: NodeProto
    constants: tuple[
        TensorProto, ...
    ]  # the weight, scales; numbers of the large ones are in the external data
    inputs: int  # K
    outputs: int  # N

    @property
    def is_head(self) -> bool:
        """Whether it makes logits, which only one row of a prefill needs."""
        return "lm_head" in self.constants[0].name

    @property
    def activation(self) -> np.dtype[np.generic]:
        """Type of x."""
        return np.dtype(np.uint8 if self.node.op_type == "MatMulIntegerToFloat" else np.float32)

    @property
    def input_name(self) -> str:
        """Of the graph's input, which all products of this width and type share."""
        return f"{'head' if self.is_head else 'x'}{self.inputs}{self.activation}"


class BareMatMuls:
    """Runs every product of a decoder graph once, in the decoder's order.

    Each is a graph output of its own, so none can be left out; products of one width write to one array.
    """

    def __init__(self, decoder: Path, threads: int, folder: Path, *, prepacked: bool = False) -> None:
        """Reads the graph `decoder`; `folder` receives a graph and a hard link to its weights.

        `prepacked`: it is one of the prepacked cache, whose packed weights are then mapped.
        """
        model = onnx.load(decoder, load_external_data=False)
        weights = {weight.name: weight for weight in model.graph.initializer}
        self.products = [
            _product(node, weights)
            for node in model.graph.node
            if node.op_type in PRODUCTS and node.input[1] in weights
        ]
        data = folder / f"{decoder.name}.data"
        data.unlink(missing_ok=True)
        os.link(decoder.with_name(data.name), data)
        path = folder / "bare_matmuls.onnx"
        onnx.save(_graph(self.products), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if prepacked:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
        for each in {each.input_name: each for each in self.products}.values():
            x = rng.uniform(0, 255, (1 if each.is_head else rows, each.inputs)).astype(each.activation)
            io.bind_ortvalue_input(each.input_name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
        outputs: dict[int, npt.NDArray[np.float32]] = {}
        for number, each in enumerate(self.products):
            shape = (1 if each.is_head else rows, each.outputs)
            y = outputs.setdefault(each.outputs, np.empty(shape, np.float32))
            io.bind_ortvalue_output(f"y{number}", onnxruntime.OrtValue.ortvalue_from_numpy(y))
        return lambda: self._session.run_with_iobinding(io)


def _product(node: NodeProto, weights: Mapping[str, TensorProto]) -> Product:
    constants = tuple(weights[name] for name in node.input if name in weights)
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    rows, columns = constants[0].dims[:2]
    return Product(node, constants, sizes.get("K", rows), sizes.get("N", columns))


def _graph(products: list[Product]) -> onnx.ModelProto:
    shared = {constant.name: constant for each in products for constant in each.constants}
    inputs = {each.input_name: each for each in products}
    graph = helper.make_graph(
        [_alone(each, f"y{number}") for number, each in enumerate(products)],
        "bare_matmuls",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(each.activation), [_rows(each.is_head), each.inputs]
            )
            for name, each in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                f"y{number}", TensorProto.FLOAT, [_rows(each.is_head), each.outputs]
            )
            for number, each in enumerate(products)
        ],
        list(shared.values()),
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def _alone(product: Product, output: str) -> NodeProto:
    node = NodeProto()
    node.CopyFrom(product.node)
    node.input[0] = product.input_name
    node.output[0] = output
    return node


def _rows(is_head: bool) -> str:
    return "logits_rows" if is_head else "sequence"
