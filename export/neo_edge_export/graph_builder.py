"""Builds an ONNX graph node by node, with names that say which module a node came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Attribute = int | float | str | Sequence[int]


class GraphBuilder:
    """Collects nodes and constants; `scope` is the module whose nodes are being added."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.scope = ""
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._used: dict[str, int] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """Adds a node of one output and gives the output."""
        return self._node(op_type, inputs, attributes, 1)[0]

    def split(self, value: ir.Value, parts: int, axis: int) -> Sequence[ir.Value]:
        """Adds a Split into equal parts."""
        return self._node("Split", (value,), {"axis": axis, "num_outputs": parts}, parts)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another type; adds nothing when it has that type already."""
        if value.dtype == dtype:
            return value
        output = self.op("Cast", value, to=int(dtype))
        output.dtype = dtype
        return output

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension of a value, [1] int64; known when the graph runs."""
        size = self.op("Shape", value, start=axis, end=axis + 1)
        size.dtype = ir.DataType.INT64
        return size

    def ints(self, *values: int) -> ir.Value:
        """A constant row of int64: shapes and axes."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: np.generic) -> ir.Value:
        """A constant of rank 0, in the type of the number."""
        return self.constant(np.asarray(value))

    def constant(self, array: npt.NDArray[np.generic]) -> ir.Value:
        """A constant stored in the graph itself; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = ir.val(name, const_value=ir.tensor(array, name=name))
            self.initializers.append(self._constants[key])
        return self._constants[key]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute],
        outputs: int,
    ) -> Sequence[ir.Value]:
        name = self._unique(f"{self.scope}.{op_type}" if self.scope else op_type)
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=name)
        for index, output in enumerate(node.outputs):
            output.name = name if outputs == 1 else f"{name}:{index}"
            # The operators used here give what they take, unless the caller says otherwise.
            if inputs and inputs[0] is not None and inputs[0].dtype is not None:
                output.dtype = inputs[0].dtype
        self.nodes.append(node)
        return node.outputs

    def _unique(self, name: str) -> str:
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return name if count == 0 else f"{name}_{count}"
