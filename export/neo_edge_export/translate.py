"""Turns a traced module into an ONNX graph: one translation per operator, most of them one node.

The trace holds exactly the operators that `lowered.py` writes, so a small table is the whole translator. It
stands in for `torch.onnx`, which given the same table computes a shape at run time for every reshape (25 nodes
a layer more) and takes 16 s instead of 0.3 s for 40 layers.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from torch.export.graph_signature import InputKind

from neo_edge.errors import ExportError
from neo_edge.manifest import OpsProfile
from neo_edge_export.graph_builder import GraphBuilder
from neo_edge_export.graph_contract import IR_VERSION, OPSET, Port
from neo_edge_export.translate_aten import ATEN
from neo_edge_export.translate_modern import MODERN
from neo_edge_export.translate_portable import PORTABLE
from neo_edge_export.translation import Call, Table

TABLES: Mapping[OpsProfile, Table] = {"modern": {**ATEN, **MODERN}, "portable": {**ATEN, **PORTABLE}}

_REMARK = "aten._assert_tensor_metadata.default"  # the tracer's note about a type, not an operation
_DTYPE = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
}


def translate(
    program: torch.export.ExportedProgram,
    ops: OpsProfile,
    *,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> ir.Model:
    """The ONNX graph of a trace; its weights have no values yet.

    Args:
        program: what `torch.export` gave.
        ops: which table of translations to use.
        inputs: names, types and dimensions of the inputs, in the trace's order.
        outputs: the same of the outputs.

    Returns:
        A model whose parameters are initializers named as in the module, with type and shape and no data.

    Raises:
        ExportError: the trace holds an operator that the table lacks.
    """
    walk = _Walk(TABLES[ops])
    graph_inputs, parameters = walk.declare(program, inputs)
    for node in program.graph.nodes:
        if node.op == "call_function":
            walk.call(node)
    graph_outputs = [walk.value(spec.arg.name) for spec in program.graph_signature.output_specs]
    graph = ir.Graph(
        graph_inputs,
        graph_outputs,
        nodes=walk.build.nodes,
        initializers=[*parameters, *walk.build.initializers],
        opset_imports={"": OPSET[ops]},
        name="neo_edge",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="neo_edge")
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    for node in graph:
        for output in node.outputs:
            output.type = None  # every reader infers it
    for value, port in zip(graph.outputs, outputs, strict=True):
        _label(value, port)
    return model


class _Walk:
    """Goes through a trace in its order and remembers what each of its nodes became."""

    def __init__(self, table: Table) -> None:
        self.build = GraphBuilder()
        self._table = table
        self._values: dict[str, ir.Value | Sequence[ir.Value]] = {}

    def value(self, name: str) -> ir.Value:
        found = self._values[name]
        assert isinstance(found, ir.Value), name
        return found

    def declare(
        self, program: torch.export.ExportedProgram, inputs: Sequence[Port]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """Values for the inputs and the parameters of the graph."""
        ports = iter(inputs)
        graph_inputs: list[ir.Value] = []
        parameters: list[ir.Value] = []
        tensors = {**program.state_dict}
        for spec in program.graph_signature.input_specs:
            value = ir.Value(name=spec.arg.name)
            if spec.kind is InputKind.USER_INPUT:
                _label(value, next(ports))
                graph_inputs.append(value)
            else:
                assert spec.target is not None
                tensor = tensors[spec.target]
                _label(value, Port(spec.target, _DTYPE[tensor.dtype], tuple(tensor.shape)))
                parameters.append(value)
            self._values[spec.arg.name] = value
        assert next(ports, None) is None, "the trace has fewer inputs than the contract"
        return graph_inputs, parameters

    def call(self, node: torch.fx.Node) -> None:
        """Translates one call."""
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, torch.fx.Node)
            assert isinstance(index, int)
            parts = self._values[source.name]
            assert isinstance(parts, Sequence)
            self._values[node.name] = parts[index]
            return
        assert isinstance(node.target, torch._ops.OpOverload), node.target
        name = str(node.target)  # such as `aten.mul.Tensor`
        if name == _REMARK:
            return
        if name not in self._table:
            raise ExportError(
                f"the traced model calls {name}, which has no ONNX translation: add one to translate_aten.py, "
                "or to both translate_modern.py and translate_portable.py when it is an operator of ours"
            )
        self.build.scope = _scope(node)
        arguments = tuple(self._argument(argument) for argument in node.args)
        self._values[node.name] = self._table[name](self.build, Call(arguments, _first_shape(node)))

    def _argument(self, argument: object) -> object:
        if isinstance(argument, torch.fx.Node):
            return self._values[argument.name]
        if isinstance(argument, list | tuple):
            return [self._argument(item) for item in argument]
        if isinstance(argument, torch.dtype):
            return _DTYPE[argument]
        return argument


def _label(value: ir.Value, port: Port) -> None:
    value.name, value.dtype, value.shape = port.name, port.dtype, ir.Shape(port.dims)


def _scope(node: torch.fx.Node) -> str:
    """Path of the module that made the call, such as `layers.3.self_attn.q_proj`."""
    stack: dict[str, tuple[str, str]] = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values()][-1] if stack else ""


def _first_shape(node: torch.fx.Node) -> tuple[int | None, ...]:
    """Shape of the first tensor among the arguments (of the first in the list, for a list)."""
    first = node.args[0]
    if isinstance(first, list | tuple):
        first = first[0]
    assert isinstance(first, torch.fx.Node)
    return tuple(size if isinstance(size, int) else None for size in first.meta["val"].shape)
