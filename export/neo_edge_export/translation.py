"""What a translation is given: the traced call's arguments, with the graph's values in place of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from neo_edge_export.graph_builder import GraphBuilder


@dataclass(frozen=True)
class Call:
    """One call in a trace; arguments are read by position, each through the method for its type."""

    arguments: tuple[object, ...]
    shape: tuple[int | None, ...]  # of the first tensor argument; None where a run chooses

    @property
    def rank(self) -> int:
        """Dimensions of the first tensor argument."""
        return len(self.shape)

    def size(self, axis: int) -> int:
        """A dimension of the first tensor argument that the model fixes."""
        size = self.shape[axis]
        assert size is not None, axis
        return size

    def value(self, position: int) -> ir.Value:
        """A tensor."""
        argument = self.arguments[position]
        assert isinstance(argument, ir.Value), argument
        return argument

    def values(self, position: int) -> Sequence[ir.Value]:
        """A list of tensors."""
        argument = self.arguments[position]
        assert isinstance(argument, Sequence), argument
        return [item for item in argument if isinstance(item, ir.Value)]

    def integer(self, position: int) -> int:
        """A whole number that was written in the module."""
        argument = self.arguments[position]
        assert isinstance(argument, int), argument
        return argument

    def number(self, position: int) -> float:
        """A number that was written in the module."""
        argument = self.arguments[position]
        assert isinstance(argument, int | float), argument
        return float(argument)

    def integers(self, position: int) -> list[int]:
        """A list of whole numbers that were written in the module."""
        argument = self.arguments[position]
        assert isinstance(argument, Sequence), argument
        return [item for item in argument if isinstance(item, int)]

    def dtype(self, position: int) -> ir.DataType:
        """A type."""
        argument = self.arguments[position]
        assert isinstance(argument, ir.DataType), argument
        return argument

    def axis(self, position: int) -> int:
        """A dimension of the first tensor, counted from the front."""
        return self.integer(position) % self.rank


Translation = Callable[[GraphBuilder, Call], ir.Value | Sequence[ir.Value]]
Table = Mapping[str, Translation]  # keyed by operator and overload, such as `aten.mul.Tensor`
