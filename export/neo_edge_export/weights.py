"""Streams weights from a checkpoint to files: one tensor, or one slice of a large one, in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from neo_edge.errors import ExportError
from neo_edge_export.lowering import LoweredTensor, TensorSource, materialize

_INLINE_BYTES = 1024  # smaller tensors stay in the .onnx file
_ALIGNMENT = 4096  # a page, so that external data can be memory-mapped tensor by tensor
_TABLE_BLOCK_BYTES = 16 << 20


class StreamedTensor(ir.LazyTensor):
    """An initializer whose numbers are read, lowered and converted when they are written."""

    def __init__(self, name: str, tensor: LoweredTensor, source: TensorSource, dtype: ir.DataType) -> None:
        super().__init__(self.whole, dtype, ir.Shape(tensor.shape), name=name)
        self._tensor_name, self._lowered, self._source = name, tensor, source

    def tofile(self, file: BinaryIO) -> None:
        """Writes at the file's position, a slice of columns at a time."""
        start, item_bytes, first = file.tell(), self.dtype.numpy().itemsize, 0
        row_bytes = self._lowered.shape[-1] * item_bytes
        for columns in self._lowered.columns(self._source):
            part = self._narrow(columns)
            if part.shape[-1] * item_bytes == row_bytes:
                file.write(part.data)
            else:
                for index, row in enumerate(part):
                    file.seek(start + index * row_bytes + first * item_bytes)
                    file.write(row.data)
            first += part.shape[-1]

    def whole(self) -> ir.TensorProtocol:
        """The numbers in memory; raises `ExportError` when they do not fit the type."""
        return ir.tensor(self._narrow(materialize(self._lowered, self._source)), name=self._tensor_name)

    def _narrow(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return _little_endian(narrow(array, self.dtype.numpy(), self._tensor_name))


def save_graph(
    model: ir.Model,
    tensors: Mapping[str, LoweredTensor],
    source: TensorSource,
    path: Path,
    on_tensor: Callable[[], None],
) -> None:
    """Writes a translated graph as `path` and its weights beside it as `path`.data.

    Args:
        model: from `translate`; its weights get their values here, in the types that it declares.
        tensors: how each weight is made, by its name in the graph.
        source: where the weights are read.
        path: the .onnx file.
        on_tensor: called before each tensor that is written.

    Raises:
        ExportError: a weight does not fit the graph's type.
    """
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape == tensors[name].shape, (name, value.shape, tensors[name].shape)
            tensor = StreamedTensor(name, tensors[name], source, value.dtype)
            # What goes into the .onnx file itself is read now: an error of ours would come out of `ir.save` wrapped.
            value.const_value = tensor if _size_bytes(value) > _INLINE_BYTES else tensor.whole()
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=_INLINE_BYTES,
        alignment=_ALIGNMENT,
        align_threshold=0,
        callback=lambda _tensor, _info: on_tensor(),
    )


def streamed_tensors(model: ir.Model) -> int:
    """How many tensors `save_graph` will write beside the graph."""
    weights = [value for value in model.graph.initializers.values() if value.const_value is None]
    return sum(_size_bytes(weight) > _INLINE_BYTES for weight in weights)


def save_embedding(
    source: TensorSource, name: str, shape: tuple[int, int], dtype: npt.DTypeLike, path: Path
) -> None:
    """Writes the token embedding as raw rows [vocab, hidden] for the host to map.

    Raises:
        ExportError: a number does not fit the type.
    """
    rows, width = shape
    with path.open("wb") as file:
        for block in _row_blocks(source, name, rows, width):
            file.write(_little_endian(narrow(block, np.dtype(dtype), name)).data)


def narrow(array: npt.NDArray[np.generic], dtype: np.dtype[np.generic], name: str) -> npt.NDArray[np.generic]:
    """The array in another type; raises `ExportError` when that makes it infinite, or it was before."""
    with np.errstate(over="ignore"):
        narrowed = array.astype(dtype, copy=False)
    if np.issubdtype(dtype, np.floating) and not np.isfinite(narrowed).all():
        finite = np.abs(array[np.isfinite(array)], dtype=np.float64)
        if finite.size < array.size:
            raise ExportError(
                f"the weight {name} holds NaN or infinity: the checkpoint is damaged, fetch it again"
            )
        raise ExportError(
            f"the weight {name} reaches {finite.max():.6g} and {dtype} ends at {np.finfo(str(dtype)).max:.6g}: "
            "export with --precision fp32"
        )
    return narrowed


def _size_bytes(value: ir.Value) -> int:
    assert value.shape is not None
    assert value.dtype is not None
    return math.prod(value.shape.numpy()) * value.dtype.numpy().itemsize


def _row_blocks(source: TensorSource, name: str, rows: int, width: int) -> Iterator[npt.NDArray[np.floating]]:
    step = max(1, _TABLE_BLOCK_BYTES // (4 * width))
    for start in range(0, rows, step):
        yield source.read_rows(name, start, min(start + step, rows))


def _little_endian(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
