"""Every name of TensorRT's Python interface that running engines touches, as typed protocols.

As the build's `builder_api`: a class has the name of TensorRT's class and its
members are the whole of what is used of it. A test compares them with TensorRT 10.3 to 11.4 and TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Named(Protocol):
    """A member of an enumeration."""

    @property
    def name(self) -> str: ...


class DataType(Named, Protocol):
    """Type of a tensor: FLOAT, HALF, INT32, ..."""


class TensorIOMode(Named, Protocol):
    """INPUT or OUTPUT."""


class TensorLocation(Named, Protocol):
    """DEVICE or HOST."""


class ExecutionContextAllocationStrategy(Protocol):
    USER_MANAGED: Named


class ILogger(Protocol):
    """Base class of a logger; `log` is called from TensorRT's threads."""

    INTERNAL_ERROR: object
    ERROR: object
    WARNING: object

    def log(self, severity: object, msg: str) -> None: ...


class IExecutionContext(Protocol):
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class RtxKernelSpecialization(Protocol):
    """TensorRT-RTX alone: when kernels for one shape are compiled."""

    EAGER: Named


class RtxRuntimeCache(Protocol):
    """TensorRT-RTX alone: kernels that were compiled, for all contexts that share it."""


class RtxRuntimeConfig(Protocol):
    """TensorRT-RTX alone: how a context compiles its kernels."""

    dynamic_shapes_kernel_specialization_strategy: Named

    def set_execution_context_allocation_strategy(self, strategy: Named) -> None: ...
    def create_runtime_cache(self) -> RtxRuntimeCache: ...
    def set_runtime_cache(self, cache: RtxRuntimeCache) -> bool: ...


class ICudaEngine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    @property
    def num_optimization_profiles(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_dtype(self, name: str) -> DataType: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_mode(self, name: str) -> TensorIOMode: ...
    def get_tensor_location(self, name: str) -> TensorLocation: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]: ...
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int: ...
    def create_execution_context(self, how: Named | RtxRuntimeConfig, /) -> IExecutionContext | None: ...


class RtxEngine(ICudaEngine, Protocol):
    """What TensorRT-RTX's ICudaEngine has beyond TensorRT's."""

    def create_runtime_config(self) -> RtxRuntimeConfig: ...


class Runtime(Protocol):
    """Needs a driver; without one its calls fail or crash."""

    def deserialize_cuda_engine(self, serialized_engine: object) -> ICudaEngine | None: ...
