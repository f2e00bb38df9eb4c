"""An `Engine` that computes a portable graph with ONNX Runtime, over the memory of a `HostDevice`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from host_device import HostDevice

from neo_edge.engines import EngineLimits
from neo_edge_export.tensorrt.shape_ranges import ShapeRange, decoder_ranges, vision_ranges
from neo_edge_runtime.tensorrt.device import Tensor
from neo_edge_runtime.tensorrt.engine import Port

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}
_SCRATCH_BYTES = 1024


class OrtEngine:
    """The ports and profiles that `neo-edge build` gives an engine of this graph."""

    def __init__(self, device: HostDevice, graph: Path, limits: EngineLimits) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.device = device
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        ranges = vision_ranges(limits) if graph.stem == "vision" else decoder_ranges(limits)
        self.profiles = len(ranges)
        self.contexts = 0  # that are open
        self.runs = 0
        self.closed = False
        self._ports = {port.name: port for port in self._read(ranges)}

    @property
    def ports(self) -> Mapping[str, Port]:
        return self._ports

    def scratch_bytes(self, profile: int) -> int:
        return _SCRATCH_BYTES - profile

    def new_context(self, profile: int, scratch: Tensor, stream: int) -> OrtContext:
        assert stream == self.device.stream
        assert scratch.nbytes >= self.scratch_bytes(profile)
        self.device.array(scratch)
        self.contexts += 1
        return OrtContext(self, profile)

    def close(self) -> None:
        assert not self.contexts, "contexts go before their engine"
        self.closed = True

    def _read(self, ranges: list[ShapeRange]) -> list[Port]:
        ports = []
        for values, is_input in ((self.session.get_inputs(), True), (self.session.get_outputs(), False)):
            for value in values:
                shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
                limits = [
                    tuple(
                        tuple(size if isinstance(size, int) else table[size] for size in value.shape)
                        for table in (sizes.least, sizes.most)
                    )
                    for sizes in ranges
                    if is_input
                ]
                dtype = np.dtype(_TYPES[value.type])
                ports.append(Port(value.name, dtype, shape, is_input, "device", tuple(limits)))  # type: ignore[arg-type]
        return ports


class OrtContext:
    """Shapes and addresses; a graph that was captured of it is void when they change, as TensorRT's is."""

    def __init__(self, engine: OrtEngine, profile: int) -> None:
        self._engine, self._profile = engine, profile
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._changes = 0
        self._closed = False

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        least, most = self._engine.ports[name].ranges[self._profile]
        assert all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        self._shapes[name] = shape
        self._changes += 1

    def set_address(self, name: str, address: int) -> None:
        assert name in self._engine.ports
        self._addresses[name] = address
        self._changes += 1

    def execute(self, stream: int) -> None:
        assert stream == self._engine.device.stream
        assert self._addresses.keys() == self._engine.ports.keys()
        shapes, addresses, changes = dict(self._shapes), dict(self._addresses), self._changes

        def run() -> None:
            assert not self._closed
            assert self._changes == changes, "the context was changed after this run was queued or captured"
            self._compute(shapes, addresses)

        self._engine.device.queue(run)

    def close(self) -> None:
        if not self._closed:
            self._engine.contexts -= 1
        self._closed = True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        engine = self._engine
        engine.runs += 1
        feeds = {
            name: engine.device.array(Tensor(addresses[name], shape, engine.ports[name].dtype))
            for name, shape in shapes.items()
        }
        names = [port.name for port in engine.ports.values() if not port.is_input]
        for name, value in zip(names, engine.session.run(names, feeds), strict=True):
            engine.device.array(Tensor(addresses[name], value.shape, value.dtype))[...] = value
