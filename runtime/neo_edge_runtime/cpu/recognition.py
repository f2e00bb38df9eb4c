"""Whether a graph is exactly the decoder that the C++ of `src/` computes, and where its weights lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neo_edge.errors import BundleCorruptError
from neo_edge.extras import require
from neo_edge_runtime.cpu.expected_graph import (
    MICROSOFT,
    OPSETS,
    Attribute,
    Constant,
    ExpectedGraph,
    Operation,
    Port,
    Value,
    expected_inputs,
    expected_outputs,
    tensor_name,
)
from neo_edge_runtime.cpu.layout import READ_TOGETHER, DecoderWidths, Storage, config_widths

if TYPE_CHECKING:
    from neo_edge.config import DecoderConfig

_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 16: "bfloat16"}
_EXTERNAL = 1  # TensorProto.data_location
_FLOAT, _INTEGER = 1, 2  # AttributeProto.type
_MOST_CONSTANTS = 8  # numbers of a tensor that counts by its values
_AXES = 3  # t, h, w

Array = npt.NDArray[np.generic]


class NotRecognized(Exception):  # noqa: N818 - no fault: another graph is as good, only slower
    """The graph is not one that our kernels compute; the message says why in one line."""


@dataclass(frozen=True)
class StoredProduct:
    """A product's weights as the graph has them; large ones are mapped from its file."""

    name: str  # as in a layout: `layers.0.q_proj`
    storage: Storage
    inputs: int  # K
    outputs: int  # N
    # int8: int8 [K, N]. int4: uint8 [N, blocks, block / 2]: two numbers (weight + 8) a byte, the first in the low half.
    weight: Array
    scale: Array  # float32. int8: [N], a weight's step over 127. int4: [N, blocks].


@dataclass(frozen=True)
class DecoderWeights:
    """All that a decoder's graph knows and another one's of the same shape does not."""

    widths: DecoderWidths
    products: Mapping[str, StoredProduct]  # by name, in the layout's order
    vectors: Mapping[str, Array]  # by name, in the layout's order: float32, `axis` int32


def recognize(onnx: ModuleType, path: Path, config: DecoderConfig) -> DecoderWeights:
    """The weights of a decoder graph.

    Args:
        onnx: the module.
        path: of the graph; its external data lies beside it.
        config: of its model.

    Raises:
        NotRecognized: it is another graph than neo_edge writes for `int8-dynamic` and `int4`.
        BundleCorruptError: it cannot be read, or its weights are not where it says.
    """
    model, widths = _load(onnx, path), config_widths(config)
    graph = model.graph
    _require_ports(graph.input, expected_inputs(widths))
    _require_ports(graph.output, expected_outputs(widths))
    tensors = _Tensors(onnx, path, graph.initializer)
    storage = dict(_storage(graph, tensors, widths))
    _require_one_block(storage, widths.layers)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != OPSETS or model.functions or graph.sparse_initializer:
        raise NotRecognized(f"it is written in {opsets}, with functions of its own or in sparse tensors")
    _require_operations(graph, tensors, ExpectedGraph(widths, storage))
    products = {
        name: _product(tensors, name, storage[name], inputs, outputs)
        for name, inputs, outputs in widths.products()
    }
    vectors = {name: _vector(tensors, name, length) for name, length in widths.vectors()}
    return DecoderWeights(widths, products, vectors)


def _load(onnx: ModuleType, path: Path) -> Any:  # onnx has no types
    protobuf = require("google.protobuf.message", extra="calibrate")
    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, protobuf.DecodeError) as error:
        raise BundleCorruptError(
            f"{path} cannot be read as a graph ({error}): copy or export again"
        ) from error


def _require_ports(found: Any, expected: list[Port]) -> None:
    for one, wanted in zip_longest([_port(value) for value in found], expected):
        if one != wanted:
            raise NotRecognized(f"{one or 'nothing'} stands where {wanted or 'nothing'} should")


def _port(value: Any) -> Port:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return Port(value.name, _dtype(tensor.elem_type), dims)


def _dtype(code: int) -> str:
    return _DTYPES.get(code, f"type {code}")


def _storage(graph: Any, tensors: _Tensors, widths: DecoderWidths) -> Iterator[tuple[str, Storage]]:
    """How each product is stored, by the operator that reads its weight."""
    readers = {name: node for node in graph.node for name in node.input}
    for name, _, _ in widths.products():
        weight = tensor_name(name)
        shown, node = weight.removesuffix(".weight"), readers.get(weight)
        if node is None:
            raise NotRecognized(f"it has no {shown}")
        if (node.domain, node.op_type) == (MICROSOFT, "MatMulIntegerToFloat"):
            yield name, Storage("int8")
        elif (node.domain, node.op_type) == (MICROSOFT, "MatMulNBits"):
            block = next((entry.i for entry in node.attribute if entry.name == "block_size"), None)
            try:
                yield name, Storage("int4", block)
            except ValueError as error:
                raise NotRecognized(f"{shown}: {error}") from error
        else:
            raise NotRecognized(f"{shown} is in {tensors.dtype(weight)}, for {node.op_type}")


def _require_one_block(storage: Mapping[str, Storage], layers: int) -> None:
    """Rows are rounded once for all products that read them."""
    for layer in range(layers):
        for together in READ_TOGETHER:
            names = [f"layers.{layer}.{name}" for name in together]
            blocks = {block: name for name in names if (block := storage[name].block) is not None}
            if len(blocks) > 1:
                found = " and ".join(f"{name} in blocks of {block}" for block, name in sorted(blocks.items()))
                raise NotRecognized(f"what reads the same numbers has {found}")


def _require_operations(graph: Any, tensors: _Tensors, expected: ExpectedGraph) -> None:
    """Each node must be one of those that are expected, each of these must be there, and no other."""
    left, ends = dict(expected.operations), {value.name for value in graph.output}
    values: dict[str, Value] = {value.name: value.name for value in graph.input}
    constants = dict(tensors.values())
    if both := values.keys() & constants:
        raise NotRecognized(f"{min(both)} has a value of its own")
    values.update(constants)
    for node in graph.node:
        shown = f"{node.op_type} {node.name!r}"
        if unknown := [name for name in node.input if name not in values]:
            raise NotRecognized(f"{shown} reads {unknown[0]!r}, which nothing gives")
        inputs = tuple(values[name] for name in node.input)
        outputs = left.pop(Operation(node.op_type, node.domain, inputs, _attributes(node)), None)
        if outputs is None or len(outputs) != len(node.output):
            raise NotRecognized(f"{shown} is not, or not so, in the decoder that neo_edge writes")
        for name, output in zip(node.output, outputs, strict=True):
            if name in values or ((name in ends or output in ends) and name != output):
                raise NotRecognized(f"{shown} gives {name!r}, not {output!r}")
            values[name] = output
    if left:
        raise NotRecognized(f"{len(left)} of its nodes are missing, first a {next(iter(left)).op_type}")


def _attributes(node: Any) -> frozenset[tuple[str, type, Attribute]]:
    return frozenset((one.name, type(value := _attribute(one)), value) for one in node.attribute)


def _attribute(attribute: Any) -> Attribute:
    if attribute.type == _FLOAT:
        return float(attribute.f)
    if attribute.type == _INTEGER:
        return int(attribute.i)
    # No operation is expected to have one of another kind, and none equals an empty tuple.
    return tuple(attribute.ints)


def _product(tensors: _Tensors, name: str, storage: Storage, inputs: int, outputs: int) -> StoredProduct:
    weight, block = tensor_name(name), storage.block
    if block is None:
        stored = tensors.read(weight, "int8", (inputs, outputs))
        scale = tensors.read(f"{weight}_scale", "float32", (outputs,))
    else:
        blocks = -(-inputs // block)
        stored = tensors.read(weight, "uint8", (outputs, blocks, block // 2))
        scale = tensors.read(f"{weight}_scale", "float32", (outputs, blocks))
    return StoredProduct(name, storage, inputs, outputs, stored, scale)


def _vector(tensors: _Tensors, name: str, length: int) -> Array:
    if name != "axis":
        return tensors.read(tensor_name(name), "float32", (length,))
    axis = tensors.read(name, "int64", (length,)).astype(np.int64)
    if axis.min() < 0 or axis.max() >= _AXES:
        raise NotRecognized(f"its positions are taken from axes {sorted(set(axis.tolist()))}")
    return axis.astype(np.int32)


class _Tensors:
    """The graph's initializers."""

    def __init__(self, onnx: ModuleType, path: Path, initializers: Any) -> None:
        self._onnx, self._path = onnx, path
        self._tensors = {tensor.name: tensor for tensor in initializers}
        self._files: dict[str, npt.NDArray[np.uint8]] = {}
        if len(self._tensors) != len(initializers):
            raise NotRecognized("two of its weights have one name")

    def dtype(self, name: str) -> str:
        """The type of one; of what is none, that it is computed."""
        tensor = self._tensors.get(name)
        return "no stored type" if tensor is None else _dtype(tensor.data_type)

    def values(self) -> Iterator[tuple[str, Value]]:
        """All names, and what they count by: those of weights and vectors by name, small ones by their numbers."""
        for name, tensor in self._tensors.items():
            if name.endswith((".weight", ".weight_scale")) or name in ("axis", "frequency"):
                yield name, name
            elif tensor.data_location == _EXTERNAL or math.prod(tensor.dims) > _MOST_CONSTANTS:
                yield name, f"unknown {name}"
            else:
                array = self._inline(tensor)
                yield name, Constant(array.dtype.name, array.shape, tuple(array.reshape(-1).tolist()))

    def read(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """One of them, mapped where it is not part of the graph's file."""
        tensor = self._tensors.get(name)
        found = None if tensor is None else (_dtype(tensor.data_type), tuple(tensor.dims))
        if tensor is None or found != (dtype, shape):
            raise NotRecognized(f"{name} is {found or 'missing'}, not {(dtype, shape)}")
        if tensor.data_location != _EXTERNAL:
            return self._inline(tensor)
        return self._external(tensor, np.dtype(dtype).newbyteorder("<")).reshape(shape)

    def _inline(self, tensor: Any) -> Array:
        try:
            array: Array = self._onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"{tensor.name} cannot be read ({error})") from error
        return array

    def _external(self, tensor: Any, dtype: np.dtype[np.generic]) -> Array:
        place = {entry.key: entry.value for entry in tensor.external_data}
        size = math.prod(tensor.dims) * dtype.itemsize
        try:
            offset, length = int(place.get("offset", 0)), int(place.get("length", size))
            data = self._file(place.get("location", ""))
        except (OSError, ValueError) as error:
            raise self._damaged(f"{tensor.name} cannot be found ({error})") from error
        if length != size or not 0 <= offset <= data.size - length:
            raise self._damaged(
                f"{tensor.name} has {size} bytes and should lie in {length} from {offset} on, of a file of {data.size}"
            )
        return data[offset : offset + length].view(dtype)

    def _file(self, location: str) -> npt.NDArray[np.uint8]:
        if location not in self._files:
            if Path(location).name != location:
                raise ValueError(f"{location!r} does not lie beside the graph")
            # Not np.memmap's own type, whose slices each carry a dictionary.
            self._files[location] = np.asarray(np.memmap(self._path.parent / location, np.uint8, "r"))
        return self._files[location]

    def _damaged(self, what: str) -> BundleCorruptError:
        return BundleCorruptError(f"{self._path} is damaged: {what}. Copy or export it again")
