"""Where ONNX Runtime keeps weights and caches: a CUDA GPU, or another device behind the same calls."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from neo_edge.errors import BackendError
from neo_edge_runtime.cuda_memory import free_cuda_bytes
from neo_edge_runtime.nvidia_devices import NvidiaDriver, nvidia_driver

CUDA_PROVIDER = "CUDAExecutionProvider"
_log = logging.getLogger(__name__)
_INSTALL = 'pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "neo-edge[gpu]"'


class OrtDevice(Protocol):
    """What the backend must know of a device."""

    @property
    def name(self) -> str:
        """ONNX Runtime's name of its memory: `cuda`, `cpu`."""
        ...

    @property
    def index(self) -> int:
        """Which of several."""
        ...

    @property
    def provider(self) -> str:
        """The execution provider that runs there."""
        ...

    @property
    def options(self) -> Mapping[str, str]:
        """The provider's options."""
        ...

    @property
    def arena(self) -> str:
        """ONNX Runtime's name of the allocator that keeps scratch."""
        ...

    def free_bytes(self) -> int | None:
        """Memory that is free there now; None where that is not known."""
        ...

    def require(self, ort: ModuleType) -> None:
        """Raises `BackendError` when it is known before anything is loaded that nothing will run there."""
        ...


@dataclass(frozen=True)
class CudaDevice:
    """An NVIDIA GPU."""

    index: int = 0
    driver: Callable[[], NvidiaDriver | str] = nvidia_driver
    name: str = "cuda"
    provider: str = CUDA_PROVIDER

    @property
    def options(self) -> Mapping[str, str]:
        """Full float32 products instead of TF32, and an arena that takes what is asked and no power of two."""
        return {
            "device_id": str(self.index),
            "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested",
        }

    @property
    def arena(self) -> str:
        """ONNX Runtime's name of the allocator that keeps scratch."""
        return f"gpu:{self.index}"

    def free_bytes(self) -> int | None:
        """As the CUDA driver counts it; what ONNX Runtime keeps for the next run is not free."""
        return free_cuda_bytes(self.index)

    def require(self, ort: ModuleType) -> None:
        """A provider, a driver, such a GPU, and a CUDA that both know; loads the CUDA libraries of this environment."""
        version, available = str(ort.__version__), ort.get_available_providers()
        if self.provider not in available:
            raise BackendError(
                f"the installed onnxruntime {version} has no {self.provider} (it has {', '.join(available)}): "
                f"{_INSTALL}"
            )
        driver = self.driver()
        if isinstance(driver, str):
            raise BackendError(
                f"{driver}, so nothing runs with {self.provider}: install NVIDIA's driver, or load with "
                "backend='onnxruntime' for the CPU"
            )
        if self.index >= len(driver.devices):
            raise BackendError(
                f"the driver {driver.version} shows {len(driver.devices)} GPUs, so there is no GPU {self.index}: check "
                "CUDA_VISIBLE_DEVICES, or in a container whether it was given a GPU"
            )
        built, runs = _major(getattr(ort, "cuda_version", "")), _major(driver.cuda)
        if built is not None and runs is not None and built > runs:
            raise BackendError(
                f"onnxruntime {version} is built for CUDA {built} and the driver {driver.version} runs CUDA up to "
                f"{driver.cuda}: update the driver, or install an onnxruntime-gpu for CUDA {runs} "
                "(those before 1.27 are for CUDA 12)"
            )
        if hasattr(ort, "preload_dlls"):  # since 1.21; it prints what it does not find
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                ort.preload_dlls()
            if printed.getvalue():
                _log.info("onnxruntime.preload_dlls: %s", printed.getvalue().strip())


def unused_provider(device: OrtDevice, ort: ModuleType) -> BackendError:
    """The error of a session that came up without the device's provider, which ONNX Runtime only logs."""
    cuda = getattr(ort, "cuda_version", "") or "12 or 13 (onnxruntime-gpu from 1.27 on: 13)"
    return BackendError(
        f"onnxruntime {ort.__version__} could not start {device.provider} and fell back to the CPU, which neo-edge "
        f"does not: it needs the libraries of CUDA {cuda} and cuDNN 9 (pip install onnxruntime-gpu[cuda,cudnn]), and "
        "their folder in LD_LIBRARY_PATH where they are not in this environment"
    )


def _major(version: object) -> int | None:
    found = re.match(r"\d+", str(version))
    return int(found[0]) if found else None
