"""Every name of TensorRT's Python interface that the build touches, as typed protocols.

A class here has the name of TensorRT's class, and its members are the whole of what is used of it; the type checker
refuses anything else. A test compares them with the interfaces of TensorRT 10.3, 10.13, 10.16 and 11.4 and of
TensorRT-RTX 1.7.1, so nothing that 11.0 removed (calibrators, precision flags, `supports_model`) can slip in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, SupportsInt

from neo_edge_runtime.tensorrt.runtime_api import ILogger as ILogger


class Named(Protocol):
    """A member of an enumeration."""

    @property
    def name(self) -> str: ...


class DataType(Named, Protocol):
    """Type of a tensor: FLOAT, HALF, INT8, INT4, ..."""


class LayerType(Named, Protocol):
    """Kind of a layer: MATRIX_MULTIPLY, SOFTMAX, ..."""


class NetworkDefinitionCreationFlag(Protocol):
    STRONGLY_TYPED: SupportsInt


class MemoryPoolType(Protocol):
    WORKSPACE: Named


class BuilderFlag(Protocol):
    TF32: Named


class ProfilingVerbosity(Protocol):
    DETAILED: Named


class LayerInformationFormat(Protocol):
    JSON: Named


class IProgressMonitor(Protocol):
    """Base class of a monitor; `step_complete` returns False to end the build."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def phase_finish(self, phase_name: str) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...


class ITensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> DataType: ...
    @property
    def shape(self) -> Sequence[int]: ...
    def get_dimension_name(self, index: int) -> str: ...


class ILayer(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> LayerType: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor | None: ...
    def get_output(self, index: int) -> ITensor | None: ...


class INetworkDefinition(Protocol):
    @property
    def num_layers(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    def get_layer(self, index: int) -> ILayer: ...
    def get_input(self, index: int) -> ITensor: ...


class IOptimizationProfile(Protocol):
    def set_shape(
        self, name: str, least: Sequence[int], usual: Sequence[int], most: Sequence[int], /
    ) -> None: ...


class IHostMemory(Protocol):
    """A buffer; `memoryview` and `write` of a file take it."""

    @property
    def nbytes(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITimingCache(Protocol):
    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    profiling_verbosity: Named
    progress_monitor: IProgressMonitor

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def set_memory_pool_limit(self, pool: Named, pool_size: int) -> None: ...
    def set_flag(self, flag: Named) -> None: ...
    def clear_flag(self, flag: Named) -> None: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class ParserError(Protocol):
    def code(self) -> Named: ...
    def desc(self) -> str: ...
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def get_error(self, index: int) -> ParserError: ...
    def parse_from_file(self, model: str) -> bool: ...


class Builder(Protocol):
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...


class EngineInspector(Protocol):
    def get_engine_information(self, form: Named, /) -> str: ...


class ICudaEngine(Protocol):
    def create_engine_inspector(self) -> EngineInspector: ...


class Runtime(Protocol):
    """Needs a driver; without one its calls fail or crash."""

    def deserialize_cuda_engine(self, serialized_engine: IHostMemory) -> ICudaEngine | None: ...


class ComputeCapability(Protocol):
    """TensorRT-RTX alone: the GPUs that it builds for ahead of time, as SM75, SM80, ..."""

    __members__: Mapping[str, Named]


class AheadOfTimeFlag(BuilderFlag, Protocol):
    """What TensorRT-RTX's BuilderFlag has beyond TensorRT's."""

    REQUIRE_USER_ALLOCATION: Named


class AheadOfTimeConfig(IBuilderConfig, Protocol):
    """What TensorRT-RTX's IBuilderConfig has beyond TensorRT's."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Named, index: int) -> bool: ...
