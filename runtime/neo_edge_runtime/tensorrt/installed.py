"""Which TensorRT is installed: one of three modules, new enough."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, cast

from neo_edge.engines import EngineBackend
from neo_edge.errors import BackendError, BrokenPackageError, MissingExtraError
from neo_edge_runtime.tensorrt import runtime_api as api

# The RTX wheels `-libs` and `-bindings` alone give the second; `tensorrt_rtx` comes with one more wheel.
MODULES: dict[EngineBackend, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# TensorRT: the first with the types and the strong typing that we build with (JetPack 6.2). RTX: the oldest tried.
LEAST: dict[EngineBackend, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 7)}
_OTHERWISE: dict[EngineBackend, str] = {
    "tensorrt": "on a Jetson use JetPack's own (sudo apt install python3-libnvinfer) from a virtual environment made "
    "with --system-site-packages",
    "tensorrt-rtx": "use --backend tensorrt where that is installed",
}


class TensorRT(Protocol):
    """The module, as far as running engines needs it."""

    __version__: str
    ILogger: type[api.ILogger]
    Runtime: Callable[[api.ILogger], api.Runtime]
    ExecutionContextAllocationStrategy: api.ExecutionContextAllocationStrategy


class TensorRTRTX(TensorRT, Protocol):
    """The module of TensorRT-RTX, which compiles kernels while it runs."""

    DynamicShapesKernelSpecializationStrategy: api.RtxKernelSpecialization


@dataclass(frozen=True)
class Installed:
    """An installed TensorRT that is new enough."""

    backend: EngineBackend
    version: str  # 10.3.0, 1.7.1.116
    module: TensorRT

    @property
    def rtx(self) -> TensorRTRTX | None:
        """The module with what RTX alone has; None for TensorRT."""
        return cast("TensorRTRTX", self.module) if self.backend == "tensorrt-rtx" else None


def find_tensorrt(
    backend: EngineBackend, importer: Callable[[str], ModuleType] = importlib.import_module
) -> Installed:
    """The installed TensorRT of that kind.

    Args:
        backend: which of the two products.
        importer: gives a module by its name.

    Raises:
        MissingExtraError: it is not installed.
        BrokenPackageError: it is installed, and its libraries do not load.
        BackendError: it is too old.
    """
    for name in MODULES[backend]:
        try:
            found = importer(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:  # OSError: a library that the bindings load themselves
            raise BrokenPackageError(name, backend, error) from error
        return _checked(backend, cast("TensorRT", found))
    raise MissingExtraError(MODULES[backend][0], backend, otherwise=_OTHERWISE[backend])


def _checked(backend: EngineBackend, module: TensorRT) -> Installed:
    version = str(module.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    least = LEAST[backend]
    if numbers is None or (int(numbers[1]), int(numbers[2])) < least:
        raise BackendError(
            f"{backend} {version} is installed; {least[0]}.{least[1]} or newer is needed: run  pip install --upgrade "
            f'"neo-edge[{backend}]", or on a Jetson install a newer JetPack (6.2 has TensorRT 10.3)'
        )
    return Installed(backend, version, module)
