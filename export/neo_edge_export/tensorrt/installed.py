"""The installed TensorRT as the build sees it, and what its version can."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, cast

from neo_edge.engines import EngineBackend
from neo_edge.manifest import OpsProfile
from neo_edge_export.tensorrt import builder_api as api
from neo_edge_runtime.tensorrt import installed


class TensorRT(Protocol):
    """The module."""

    __version__: str
    ILogger: type[api.ILogger]
    IProgressMonitor: type[api.IProgressMonitor]
    Builder: Callable[[api.ILogger], api.Builder]
    OnnxParser: Callable[[api.INetworkDefinition, api.ILogger], api.OnnxParser]
    Runtime: Callable[[api.ILogger], api.Runtime]
    NetworkDefinitionCreationFlag: api.NetworkDefinitionCreationFlag
    BuilderFlag: api.BuilderFlag
    MemoryPoolType: api.MemoryPoolType
    ProfilingVerbosity: api.ProfilingVerbosity
    LayerInformationFormat: api.LayerInformationFormat


class TensorRTRTX(TensorRT, Protocol):
    """The module of TensorRT-RTX, which builds for GPUs that are not there."""

    ComputeCapability: api.ComputeCapability


_FIRST_CACHE_UPDATE = 10, 15  # the first that has INetworkDefinition.add_kv_cache_update


@dataclass(frozen=True)
class Installed:
    """An installed TensorRT that is new enough."""

    backend: EngineBackend
    version: str  # 10.3.0, 1.7.1.116
    module: TensorRT

    @property
    def ops(self) -> OpsProfile:
        """Which of the two graph profiles it builds: the portable one everywhere, for the reason in `why_ops`."""
        return "portable"

    @property
    def why_ops(self) -> str:
        """What keeps this version from building the modern graphs; `docs/tensorrt.md` has what was tried."""
        if self.backend == "tensorrt" and _numbers(self.version) < _FIRST_CACHE_UPDATE:
            return "TensorRT before 10.15 updates no cache in place"
        return (
            "a cache updated in place has a fixed length, and every step would attend to all of --max-context"
        )

    @property
    def rtx(self) -> TensorRTRTX | None:
        """The module with what RTX alone has; None for TensorRT."""
        return cast("TensorRTRTX", self.module) if self.backend == "tensorrt-rtx" else None

    @property
    def has_timing_cache(self) -> bool:
        """TensorRT-RTX times nothing at build time; its timing caches are deprecated and do nothing."""
        return self.backend == "tensorrt"

    @property
    def has_progress_monitor(self) -> bool:
        """Some builds of the bindings leave it out."""
        return hasattr(self.module, "IProgressMonitor")


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def find_tensorrt(
    backend: EngineBackend, importer: Callable[[str], ModuleType] = importlib.import_module
) -> Installed:
    """The installed TensorRT of that kind; arguments and errors as the runtime's `find_tensorrt`."""
    found = installed.find_tensorrt(backend, importer)
    return Installed(backend, found.version, cast("TensorRT", found.module))
