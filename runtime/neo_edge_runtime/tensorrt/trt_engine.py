"""An engine of TensorRT or TensorRT-RTX, from the bytes of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from neo_edge.engines import DECODE_PROFILE
from neo_edge.errors import BackendError, EngineError
from neo_edge_runtime.tensorrt.engine import Port
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog

if TYPE_CHECKING:
    from neo_edge_runtime.tensorrt import runtime_api as api
    from neo_edge_runtime.tensorrt.device import Location, Tensor
    from neo_edge_runtime.tensorrt.engine import Context
    from neo_edge_runtime.tensorrt.installed import Installed

TYPES = {  # of TensorRT's DataType
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class TrtEngine:
    """Weights on the device, through TensorRT."""

    def __init__(self, installed: Installed, plan: object, label: str) -> None:
        """Deserializes.

        Args:
            installed: the TensorRT that the plan was built with.
            plan: a buffer. A plan is native code: only what `neo_edge.engine_files.read_plan` gave, and only after a
                driver and a device were found, since without them TensorRT crashes.
            label: what messages call the plan.

        Raises:
            EngineError: TensorRT refuses the plan.
        """
        self._log = TensorRtLog(installed.module)
        # TensorRT's objects must go in this order: contexts, engine, runtime, logger.
        self._runtime: api.Runtime | None = installed.module.Runtime(self._log.logger)
        self._engine: api.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{installed.backend} {installed.version} does not load {label}:\n{self._log.text}\nIt may need more "
                "memory than the GPU has free; otherwise build it again with neo-edge build --overwrite"
            )
        self._strategy = installed.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._rtx = installed.rtx
        self._decode_config: api.RtxRuntimeConfig | None = None
        self._label = label
        self._ports = {port.name: port for port in _ports(self._engine, label)}
        self.profiles = self._engine.num_optimization_profiles

    @property
    def ports(self) -> Mapping[str, Port]:
        """Inputs and outputs by name."""
        return self._ports

    def scratch_bytes(self, profile: int) -> int:
        """Device memory that a context of the profile works in."""
        return int(self._open().get_device_memory_size_for_profile_v2(profile))

    def new_context(self, profile: int, scratch: Tensor, stream: int) -> Context:
        """A context; raises `BackendError` when TensorRT makes none."""
        context = self._open().create_execution_context(self._how(profile))
        if context is None:
            raise _failure(self._log, f"TensorRT makes no execution context of {self._label}")
        # Before the profile is set: from then on TensorRT may use it.
        context.set_device_memory(scratch.address, scratch.nbytes)
        if not context.set_optimization_profile_async(profile, stream):
            raise _failure(self._log, f"TensorRT does not take profile {profile} of {self._label}")
        return TrtContext(context, self._log, self._label)

    def close(self) -> None:
        """Gives the weights back."""
        self._decode_config = None
        self._engine = None
        self._runtime = None

    def _how(self, profile: int) -> api.Named | api.RtxRuntimeConfig:
        """A decode step is captured in its second run and must have its kernels by then.

        TensorRT-RTX by itself serves a new shape with general kernels while it compiles in the background. Prefills,
        whose shapes hardly come back, are left at that.
        """
        if self._rtx is None or profile != DECODE_PROFILE:
            return self._strategy
        if self._decode_config is None:
            config = cast("api.RtxEngine", self._open()).create_runtime_config()
            config.set_execution_context_allocation_strategy(self._strategy)
            config.dynamic_shapes_kernel_specialization_strategy = (
                self._rtx.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            # Each conversation has a context of its own; they compile a shape once.
            config.set_runtime_cache(config.create_runtime_cache())
            self._decode_config = config
        return self._decode_config

    def _open(self) -> api.ICudaEngine:
        if self._engine is None:
            raise BackendError(f"{self._label} is closed: load the bundle again")
        return self._engine


class TrtContext:
    """TensorRT's execution context."""

    def __init__(self, context: api.IExecutionContext, log: TensorRtLog, label: str) -> None:
        self._context: api.IExecutionContext | None = context
        self._log, self._label = log, label

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Of an input."""
        if not self._open().set_input_shape(name, shape):
            raise _failure(self._log, f"TensorRT refuses the shape {list(shape)} of {name} of {self._label}")

    def set_address(self, name: str, address: int) -> None:
        """Of an input or output."""
        if not self._open().set_tensor_address(name, address):
            raise _failure(self._log, f"TensorRT refuses the memory of {name} of {self._label}")

    def execute(self, stream: int) -> None:
        """Queues a run."""
        if not self._open().execute_async_v3(stream):
            raise _failure(self._log, f"TensorRT does not run {self._label}")

    def close(self) -> None:
        """Gives it back."""
        self._context = None

    def _open(self) -> api.IExecutionContext:
        if self._context is None:
            raise BackendError(f"a context of {self._label} is closed: load the bundle again")
        return self._context


def _failure(log: TensorRtLog, what: str) -> BackendError:
    """With what TensorRT said; that is forgotten then."""
    error = BackendError(
        f"{what}:\n{log.text}\nsmaller requests need less memory; neo-edge doctor says what is installed"
    )
    log.errors.clear()
    return error


def _ports(engine: api.ICudaEngine, label: str) -> list[Port]:
    return [_port(engine, engine.get_tensor_name(index), label) for index in range(engine.num_io_tensors)]


def _port(engine: api.ICudaEngine, name: str, label: str) -> Port:
    kind = engine.get_tensor_dtype(name).name
    if kind not in TYPES:
        raise EngineError(f"{name} of {label} is of the type {kind}: build it again with neo-edge build")
    is_input = engine.get_tensor_mode(name).name == "INPUT"
    location: Location = "host" if engine.get_tensor_location(name).name == "HOST" else "device"
    ranges = []
    for profile in range(engine.num_optimization_profiles if is_input else 0):
        least, _, most = engine.get_tensor_profile_shape(name, profile)
        ranges.append((tuple(least), tuple(most)))
    return Port(
        name, np.dtype(TYPES[kind]), tuple(engine.get_tensor_shape(name)), is_input, location, tuple(ranges)
    )
