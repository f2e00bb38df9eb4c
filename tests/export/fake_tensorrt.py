"""TensorRT as the build sees it, without TensorRT: for what needs a GPU, and for versions that are not here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from neo_edge.engines import EngineBackend
from neo_edge_export.tensorrt.installed import Installed
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver

ORIN = NvidiaDriver("540.4.0", "12.6", (NvidiaDevice("Orin", None, "8.7"),))
H100 = NvidiaDriver("580.65", "13.0", (NvidiaDevice("NVIDIA H100", 80 << 30, "9.0"),))
INSPECTED = {"Layers": ["fused_attention"]}


class Buffer(bytearray):
    """IHostMemory."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Cache:
    """ITimingCache: the labels of all that went into it."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch
        self.content += other.content
        return True

    def serialize(self) -> Buffer:
        return Buffer(self.content)


def tensor(name: str, dtype: str, shape: Sequence[int] = (), dims: Sequence[str] = ()) -> Any:
    """ITensor."""
    return SimpleNamespace(
        name=name,
        dtype=SimpleNamespace(name=dtype),
        shape=shape,
        get_dimension_name=lambda index: dims[index],
    )


def layer(kind: str, inputs: Sequence[Any], output: Any) -> Any:
    """ILayer."""
    return SimpleNamespace(
        name=output.name,
        type=SimpleNamespace(name=kind),
        num_inputs=len(inputs),
        num_outputs=1,
        get_input=lambda index: inputs[index],
        get_output=lambda _: output,
    )


def network(layers: Sequence[Any], inputs: Sequence[Any] = ()) -> Any:
    """INetworkDefinition."""
    return SimpleNamespace(
        num_layers=len(layers),
        num_inputs=len(inputs),
        get_layer=lambda index: layers[index],
        get_input=lambda index: inputs[index],
    )


def product(dims: Sequence[str]) -> Any:
    """A graph of one matrix product; its input has a fixed dimension between two named ones."""
    given, weight = tensor("x", "HALF", (-1, 8, -1), (dims[0], "", dims[1])), tensor("w", "HALF")
    return network([layer("MATRIX_MULTIPLY", [given, weight], tensor("y", "HALF"))], [given])


VISION, DECODER = product(("patches", "patches")), product(("batch", "sequence"))


class FakeTensorRT:
    """The module: takes every graph, measures nothing, builds engines that say what they were built with."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    class IProgressMonitor:
        pass

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, version: str = "10.3.0", *, builds: bool = True, plan: bytes = b"plan") -> None:
        self.__version__ = version
        self._plan = plan
        self._builds = builds
        self.profiles: list[dict[str, tuple[Sequence[int], ...]]] = []
        self.limits: dict[object, int] = {}
        self.cleared: list[object] = []  # flags
        self.deserialized: list[bytes] = []

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def create_network(flags: int) -> Any:
            assert flags == 2  # strongly typed, and nothing else
            return network([])

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=self._config,
            create_optimization_profile=self._profile,
            build_serialized_network=lambda _, config: self._build(logger, config),
        )

    def OnnxParser(self, empty: Any, logger: Any) -> Any:  # noqa: N802, ARG002
        def parse_from_file(graph: str) -> bool:
            vars(empty).update(vars(VISION if "vision" in graph else DECODER))
            return True

        return SimpleNamespace(parse_from_file=parse_from_file)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802, ARG002
        def deserialize(plan: Buffer) -> Any:
            self.deserialized.append(bytes(plan))
            return SimpleNamespace(
                create_engine_inspector=lambda: SimpleNamespace(
                    get_engine_information=lambda _: json.dumps(INSPECTED)
                )
            )

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _config(self) -> Any:
        config = SimpleNamespace(
            cache=None,
            add_optimization_profile=lambda _: 0,
            set_memory_pool_limit=self.limits.__setitem__,
            clear_flag=self.cleared.append,
            create_timing_cache=Cache,
        )
        config.set_timing_cache = lambda cache, _: setattr(config, "cache", cache)
        config.get_timing_cache = lambda: config.cache
        return config

    def _profile(self) -> Any:
        shapes: dict[str, tuple[Sequence[int], ...]] = {}
        self.profiles.append(shapes)
        return SimpleNamespace(set_shape=lambda name, *sizes: shapes.__setitem__(name, sizes))

    def _build(self, logger: Any, config: Any) -> Buffer | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        assert monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
        if not self._builds:
            logger.log(self.ILogger.ERROR, "Could not find any implementation for node MatMul_7")
            return None
        config.cache.content += b"measured;"
        return Buffer(self._plan + b" after " + config.cache.content)


def fake_installed(
    backend: EngineBackend = "tensorrt",
    version: str = "10.3.0",
    *,
    builds: bool = True,
    plan: bytes = b"plan",
) -> tuple[Installed, FakeTensorRT]:
    """A TensorRT of that version, and the fake behind it."""
    module = FakeTensorRT(version, builds=builds, plan=plan)
    return Installed(backend, version, module), module  # type: ignore[arg-type]
