"""Free memory of an NVIDIA GPU, asked through the CUDA driver's own library without any package.

NVML, which `nvidia_devices.py` asks, numbers GPUs in another order than CUDA, knows nothing of CUDA_VISIBLE_DEVICES,
and gives no memory on a Jetson.
"""

from __future__ import annotations

import ctypes
from typing import Any

_LIBRARY = "libcuda.so.1"


def free_cuda_bytes(index: int, library: Any = None) -> int | None:
    """What all programs leave of a GPU's memory now; None where the driver does not say.

    Args:
        index: CUDA's number of the GPU.
        library: with the driver's functions; None: the system's.
    """
    try:
        cuda = ctypes.CDLL(_LIBRARY) if library is None else library
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    # The primary context is the one that ONNX Runtime works in, so this makes none of its own.
    if (
        cuda.cuInit(0) != 0
        or cuda.cuDeviceGet(ctypes.byref(device), index) != 0
        or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0
    ):
        return None
    try:
        return _free_in(cuda, context)
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _free_in(cuda: Any, context: ctypes.c_void_p) -> int | None:
    free, total, popped = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    if cuda.cuCtxPushCurrent_v2(context) != 0:
        return None
    status = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    cuda.cuCtxPopCurrent_v2(ctypes.byref(popped))
    return free.value if status == 0 else None
