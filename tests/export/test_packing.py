"""Packed weights, read back by ONNX's own helper and by ONNX Runtime's operators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neo_edge_export.quantization.packing import (
    pack_int4,
    pack_matmul_nbits_4,
    pack_matmul_nbits_8,
    unpack_int4,
)
from neo_edge_export.quantization.weight_rounding import round_int4, round_int8

Array = npt.NDArray[np.generic]


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=50))
def test_int4_numbers_come_back(numbers: list[int]) -> None:
    values = np.array(numbers, np.int8)
    packed = pack_int4(values)
    assert packed.size == (len(numbers) + 1) // 2
    np.testing.assert_array_equal(unpack_int4(packed, values.shape), values)


def test_onnx_reads_the_packed_tensor() -> None:
    values = np.random.default_rng(0).integers(-8, 8, (5, 7)).astype(np.int8)
    tensor = TensorProto(data_type=TensorProto.INT4, dims=values.shape, raw_data=pack_int4(values).tobytes())
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


def test_a_large_tensor_is_packed_in_slices_alike() -> None:
    values = np.random.default_rng(0).integers(-8, 8, (1 << 22) + 3).astype(np.int8)
    np.testing.assert_array_equal(unpack_int4(pack_int4(values), values.shape), values)


def product(nodes: list[onnx.NodeProto], initializers: list[TensorProto], x: Array) -> Array:
    """x [R, K] through a graph of `nodes` from "x" to "y"."""
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", x.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # Else DequantizeLinear and MatMul become a product that rounds x, too.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    return y


@pytest.mark.parametrize("inputs", [96, 80])  # 80: the last group of 32 has 16
def test_blocked_dequantize_linear_reads_the_groups(inputs: int) -> None:
    rng = np.random.default_rng(0)
    rounded = round_int4(rng.standard_normal((inputs, 24), np.float32), 32)
    x = rng.standard_normal((4, inputs), np.float32)
    weight = TensorProto(name="w", data_type=TensorProto.INT4, dims=rounded.values.shape)
    weight.raw_data = pack_int4(rounded.values).tobytes()
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wide"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    y = product(nodes, [weight, numpy_helper.from_array(rounded.scale, "scale")], x)
    np.testing.assert_allclose(y, x @ rounded.dequantized(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs", [96, 80])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_nbits_reads_the_blocks(inputs: int, bits: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inputs, 24), np.float32)
    x = rng.standard_normal((4, inputs), np.float32)
    if bits == 4:
        rounded4 = round_int4(weight, 32)
        expected, (packed, scale) = rounded4.dequantized(), pack_matmul_nbits_4(rounded4)
        assert packed.shape == (24, 3, 16)
    else:
        rounded8 = round_int8(weight)
        expected, (packed, scale) = rounded8.dequantized(), pack_matmul_nbits_8(rounded8, 32)
        assert packed.shape == (24, 3, 32)
    assert scale.shape == (24, 3)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "scale"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=24,
        bits=bits,
        block_size=32,
        accuracy_level=1,  # float32 arithmetic, so that only the weights' format is under test
    )
    y = product([node], [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scale, "scale")], x)
    np.testing.assert_allclose(y, x @ expected, rtol=1e-4, atol=1e-4)
