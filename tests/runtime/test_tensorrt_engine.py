"""An engine over TensorRT's module: what is asked of it, what it says when it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neo_edge.engines import DECODE_PROFILE, PREFILL_PROFILE, EngineBackend
from neo_edge.errors import BackendError, EngineError
from neo_edge_runtime.tensorrt.device import Tensor
from neo_edge_runtime.tensorrt.installed import Installed
from neo_edge_runtime.tensorrt.trt_engine import TrtEngine

SCRATCH = Tensor(512, (4096,), np.dtype(np.uint8))
PORTS = {
    "patches": ("FLOAT", (-1, 768), "INPUT", "DEVICE"),
    "shape": ("INT64", (2,), "INPUT", "HOST"),
    "visual_tokens": ("HALF", (-1, 64), "OUTPUT", "DEVICE"),
}


class Module:
    """TensorRT's module with one engine; `refuses` is the call that says no, and why is in its log."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, refuses: str = "", ports: dict[str, tuple[Any, ...]] = PORTS) -> None:
        self.refuses, self._ports = refuses, ports
        self.calls: list[tuple[object, ...]] = []
        self._logger: Any = None

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        self._logger = logger
        return SimpleNamespace(
            deserialize_cuda_engine=lambda plan: self._said("deserialize", bytes(plan), self._engine)
        )

    def _said(self, call: str, argument: object, answer: Any = True) -> Any:
        self.calls.append((call, argument))
        self._logger.log(self.ILogger.WARNING, f"about {call}")
        if call == self.refuses:
            self._logger.log(self.ILogger.ERROR, f"  why {call} fails ")
            return None if answer is not True else False
        return answer() if callable(answer) else answer

    def _engine(self) -> Any:
        names, ports = list(self._ports), self._ports

        def profile_shape(name: str, profile: int) -> list[Sequence[int]]:
            assert ports[name][2] == "INPUT"
            return [
                [size if size > 0 else sizes for size in ports[name][1]] for sizes in (1, 2, 10 + profile)
            ]

        return SimpleNamespace(
            num_io_tensors=len(names),
            num_optimization_profiles=2,
            get_tensor_name=lambda index: names[index],
            get_tensor_dtype=lambda name: SimpleNamespace(name=ports[name][0]),
            get_tensor_shape=lambda name: list(ports[name][1]),
            get_tensor_mode=lambda name: SimpleNamespace(name=ports[name][2]),
            get_tensor_location=lambda name: SimpleNamespace(name=ports[name][3]),
            get_tensor_profile_shape=profile_shape,
            get_device_memory_size_for_profile_v2=lambda profile: 1000 + profile,
            create_execution_context=lambda how: self._said("context", how, self._context),
            create_runtime_config=lambda: self._said("config", None, RuntimeConfig),
        )

    def _context(self) -> Any:
        return SimpleNamespace(
            set_device_memory=lambda *memory: self.calls.append(("memory", memory)),
            set_optimization_profile_async=lambda *profile: self._said("profile", profile),
            set_input_shape=lambda *shape: self._said("shape", shape),
            set_tensor_address=lambda *address: self._said("address", address),
            execute_async_v3=lambda stream: self._said("execute", stream),
        )


class RuntimeConfig:
    """TensorRT-RTX's."""

    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"
        self.strategy = "static"
        self.cache: object = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> object:
        return ["a cache"]

    def set_runtime_cache(self, cache: object) -> bool:
        self.cache = cache
        return True


def load(module: Module, backend: EngineBackend = "tensorrt") -> TrtEngine:
    return TrtEngine(Installed(backend, "10.3.0", module), b"a plan", "decoder.plan")  # type: ignore[arg-type]


def test_ports_have_their_types_places_and_ranges() -> None:
    engine = load(Module())
    patches, shape, tokens = engine.ports.values()
    assert (patches.dtype, patches.shape, patches.is_input, patches.location) == (
        np.float32,
        (-1, 768),
        True,
        "device",
    )
    assert patches.ranges == (((1, 768), (10, 768)), ((1, 768), (11, 768)))
    assert (shape.dtype, shape.location) == (np.int64, "host")
    assert (tokens.dtype, tokens.is_input, tokens.ranges) == (np.float16, False, ())
    assert engine.profiles == 2
    assert engine.scratch_bytes(1) == 1001


def test_a_context_works_in_the_memory_it_was_given_before_its_profile_is_set() -> None:
    module = Module()
    context = load(module).new_context(1, SCRATCH, 7)
    context.set_shape("patches", (8, 768))
    context.set_address("patches", 256)
    context.execute(7)
    assert module.calls == [
        ("deserialize", b"a plan"),
        ("context", "user managed"),
        ("memory", (512, 4096)),
        ("profile", (1, 7)),
        ("shape", ("patches", (8, 768))),
        ("address", ("patches", 256)),
        ("execute", 7),
    ]


def test_rtx_compiles_the_kernels_of_a_decode_step_before_it_runs_and_once_for_all_contexts() -> None:
    module = Module()
    engine = load(module, "tensorrt-rtx")
    for profile in (PREFILL_PROFILE, DECODE_PROFILE, DECODE_PROFILE):
        engine.new_context(profile, SCRATCH, 7)
    prefill, first, second = [argument for call, argument in module.calls if call == "context"]
    assert prefill == "user managed"
    assert first is second
    assert isinstance(first, RuntimeConfig)
    assert first.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert first.strategy == "user managed"
    assert first.cache == ["a cache"]
    engine.close()


def test_a_plan_that_tensorrt_refuses_is_said_with_its_reason() -> None:
    with pytest.raises(
        EngineError, match=r"tensorrt 10.3.0 does not load decoder.plan:\n  why deserialize fails\n"
    ):
        load(Module("deserialize"))


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("context", "TensorRT makes no execution context of decoder.plan:\n  why context fails\n"),
        ("profile", "TensorRT does not take profile 0 of decoder.plan:\n  why profile fails\n"),
        ("shape", r"TensorRT refuses the shape \[8, 768\] of patches of decoder.plan:\n  why shape fails\n"),
        ("address", "TensorRT refuses the memory of patches of decoder.plan:\n  why address fails\n"),
        ("execute", "TensorRT does not run decoder.plan:\n  why execute fails\n"),
    ],
)
def test_a_call_that_tensorrt_refuses_is_said_with_its_reason(refuses: str, message: str) -> None:
    engine = load(Module(refuses))
    with pytest.raises(BackendError, match=message):
        context = engine.new_context(0, SCRATCH, 7)
        context.set_shape("patches", (8, 768))
        context.set_address("patches", 256)
        context.execute(7)


def test_a_type_that_the_runtime_does_not_know_is_refused() -> None:
    with pytest.raises(EngineError, match="patches of decoder.plan is of the type FP8: build it again"):
        load(Module(ports={"patches": ("FP8", (-1, 768), "INPUT", "DEVICE")}))


def test_a_closed_engine_or_context_refuses() -> None:
    engine = load(Module())
    context = engine.new_context(0, SCRATCH, 7)
    context.close()
    with pytest.raises(BackendError, match="a context of decoder.plan is closed"):
        context.execute(7)
    engine.close()
    with pytest.raises(BackendError, match="decoder.plan is closed"):
        engine.new_context(0, SCRATCH, 7)
