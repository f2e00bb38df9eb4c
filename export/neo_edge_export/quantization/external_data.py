"""Writes a graph's tensors one after another into the file beside it, each on a page of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_ALIGNMENT = 4096  # a page, so that external data can be memory-mapped tensor by tensor
_INLINE_BYTES = 1024  # smaller tensors stay in the .onnx file


class ExternalDataWriter:
    """The file `NAME.onnx.data`; tensors go to it as they are made, so that only one is in memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._end = path, 0
        self._file = path.open("wb")

    def __enter__(self) -> ExternalDataWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, array: npt.NDArray[np.generic]) -> ir.TensorProtocol:
        """A whole tensor; a small one becomes part of the graph itself."""
        if array.nbytes <= _INLINE_BYTES:
            return ir.tensor(np.array(array), name=name)
        return self.add_bytes(name, ir.DataType.from_numpy(array.dtype), array.shape, array)

    def add_bytes(
        self, name: str, dtype: ir.DataType, shape: Iterable[int], raw: npt.NDArray[np.generic]
    ) -> ir.ExternalTensor:
        """A tensor whose stored bytes are given, in whatever shape."""
        start = self._start()
        self._file.write(_little_endian(raw).data)
        return self._external(name, dtype, shape, start)

    def add_columns(
        self,
        name: str,
        dtype: np.dtype[np.generic],
        shape: tuple[int, int],
        parts: Iterable[npt.NDArray[np.generic]],
    ) -> ir.ExternalTensor:
        """A matrix that comes in slices of columns, first to last."""
        start, first = self._start(), 0
        rows, columns = shape
        for part in parts:
            if part.shape == shape:
                self._file.write(_little_endian(part).data)
            else:
                for row in range(rows):
                    self._file.seek(start + (row * columns + first) * dtype.itemsize)
                    self._file.write(_little_endian(part[row]).data)
            first += part.shape[1]
        assert first == columns, (name, first, columns)
        self._file.seek(start + rows * columns * dtype.itemsize)
        return self._external(name, ir.DataType.from_numpy(dtype), shape, start)

    def _start(self) -> int:
        self._end = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(self._end)
        return self._end

    def _external(self, name: str, dtype: ir.DataType, shape: Iterable[int], start: int) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self._path.name,
            start,
            self._file.tell() - start,
            dtype,
            shape=ir.Shape(tuple(shape)),
            name=name,
            base_dir=self._path.parent,
        )


def _little_endian(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
