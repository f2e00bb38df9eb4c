"""What is measured of a GPU beside a backend: its copy bandwidth, its rate of matrix products, its memory."""

from __future__ import annotations

import importlib.util
import logging

from neo_edge.errors import BackendError, BrokenPackageError, MemoryBudgetError, MissingExtraError
from neo_edge_runtime.bench.measuring import GpuMeters
from neo_edge_runtime.bench.roofline import Bandwidth, DeviceCopies, UnknownBandwidth
from neo_edge_runtime.nvidia_devices import used_device_bytes

_log = logging.getLogger(__name__)


def gpu_bandwidth() -> Bandwidth:
    """Copies on the first GPU; no reader, and a warning, where CUDA cannot be called from Python."""
    from neo_edge_runtime.tensorrt.cuda_device import CudaDevice

    try:
        return DeviceCopies(CudaDevice())
    except (BackendError, BrokenPackageError, MemoryBudgetError, MissingExtraError) as error:
        _log.warning("the copy bandwidth is not measured: %s", error)
        return UnknownBandwidth()


def gpu_meters(used_before: int) -> GpuMeters:
    """NVML for memory, PyTorch for matrix products where it is installed and sees a GPU."""
    return GpuMeters(used_before=used_before, used_bytes=used_device_bytes, matrix_rate=_matrix_rate)


def _matrix_rate() -> float | None:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    from neo_edge_export.bench.torch_gpu import torch_matrix_rate

    return torch_matrix_rate()
