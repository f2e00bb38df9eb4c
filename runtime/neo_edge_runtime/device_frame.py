"""Frames that lie on a GPU already, as pycuda, cupy, torch and NVIDIA's decoders hand them out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

from neo_edge.errors import ImageError

_CUDA_DEVICES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged
_UNSIGNED, _BYTE_BITS = 1, 8  # DLPack's kDLUInt


class CudaArray(Protocol):
    """An array on a GPU, as pycuda, cupy, numba and torch describe theirs."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


class DlpackArray(Protocol):
    """An array of any library on any device."""

    def __dlpack__(self, *, stream: int) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class DeviceFrame:
    """[H, W, 3] uint8 RGB on a GPU; it must stay as it is until the model has seen it."""

    address: int
    height: int
    width: int
    strides: tuple[int, int, int]  # bytes from row to row, column to column, channel to channel
    owner: object  # keeps the memory


def is_on_device(source: object) -> bool:
    """Whether this is an array on a GPU, by either protocol."""
    if hasattr(source, "__dlpack_device__"):
        return _dlpack_device(source) in _CUDA_DEVICES
    return hasattr(source, "__cuda_array_interface__")


def device_frame(source: object) -> DeviceFrame:
    """The frame in an array for which `is_on_device` holds; nothing is copied.

    Raises:
        ImageError: it is no [height, width, 3] of uint8, or has no protocol that says where it is.
    """
    if hasattr(source, "__cuda_array_interface__"):
        return _from_cuda_array(source)
    return _from_dlpack(source)


def _from_cuda_array(source: Any) -> DeviceFrame:
    described = source.__cuda_array_interface__
    shape = tuple(described["shape"])
    _require(shape, described["typestr"], described["typestr"] == "|u1")
    row, column, channel = described.get("strides") or (shape[1] * 3, 3, 1)
    return DeviceFrame(int(described["data"][0]), shape[0], shape[1], (row, column, channel), source)


def _require(shape: tuple[int, ...], dtype: str, is_bytes: bool) -> None:
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or not is_bytes:
        raise ImageError(
            f"a frame on the GPU is {list(shape)} of {dtype}; it must be [height, width, 3], RGB, of uint8: permute or "
            "convert it there (tensor.permute(1, 2, 0) needs no copy)"
        )


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: contiguous
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack_device(source: Any) -> int:
    return int(source.__dlpack_device__()[0])


def _from_dlpack(source: Any) -> DeviceFrame:
    # -1: the producer queues no waiting; whoever reads the frame waits for all work on the device.
    capsule = source.__dlpack__(stream=-1)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    # The managed tensor begins with the tensor. The capsule keeps its name, so it frees the tensor when it goes.
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    is_bytes = (tensor.code, tensor.bits, tensor.lanes) == (_UNSIGNED, _BYTE_BITS, 1)
    _require(shape, f"DLPack type {tensor.code} of {tensor.bits} bits", is_bytes)
    strides = tuple(tensor.strides[axis] for axis in range(3)) if tensor.strides else (shape[1] * 3, 3, 1)
    address = int(tensor.data or 0) + int(tensor.byte_offset)
    return DeviceFrame(address, shape[0], shape[1], (strides[0], strides[1], strides[2]), (capsule, source))
