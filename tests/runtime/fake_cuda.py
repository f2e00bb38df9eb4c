"""`cuda.bindings.driver` over host memory; takes as many arguments as the real package, and keeps the order."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

INTERFACE: dict[str, Any] = json.loads(
    Path(__file__).with_name("cuda_interface.json").read_text(encoding="utf-8")
)


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


OK = (CUresult.CUDA_SUCCESS,)


class FakeCuda:
    """A driver with some devices of compute capability 8.7; each failure is of one function, by name."""

    CUresult = CUresult
    CUDA_MEMCPY2D = SimpleNamespace
    CUmemorytype = SimpleNamespace(CU_MEMORYTYPE_DEVICE=2)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )

    def __init__(self, *, devices: int = 1, failures: dict[str, CUresult] | None = None) -> None:
        self.devices = devices
        self.failures = failures or {}
        self.called: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self._capture: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        function = getattr(type(self), f"do_{name}", None)

        def call(*arguments: Any) -> tuple[Any, ...]:
            assert len(arguments) == len(INTERFACE["functions"][name]), name
            self.called.append(name)
            if name in self.failures:
                return (self.failures[name], *[None] * (name in ("cuStreamEndCapture", "cuMemAlloc")))
            if function is None:
                return OK
            found: tuple[Any, ...] = function(self, *arguments)
            return found

        if name not in INTERFACE["functions"]:
            raise AttributeError(name)
        return call

    def do_cuDeviceGetCount(self) -> tuple[Any, ...]:  # noqa: N802
        return *OK, self.devices

    def do_cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:  # noqa: N802
        return *OK, f"device {ordinal}"

    def do_cuDeviceGetName(self, length: int, dev: object) -> tuple[Any, ...]:  # noqa: N802
        return *OK, f"Orin, {dev}".encode().ljust(length, b"\0")

    def do_cuDeviceGetAttribute(self, attrib: int, dev: object) -> tuple[Any, ...]:  # noqa: N802, ARG002
        return *OK, {75: 8, 76: 7}[attrib]

    def do_cuDevicePrimaryCtxRetain(self, dev: object) -> tuple[Any, ...]:  # noqa: N802
        return *OK, f"context of {dev}"

    def do_cuGetErrorString(self, error: CUresult) -> tuple[Any, ...]:  # noqa: N802
        return *OK, f"the text of {int(error)}".encode()

    def do_cuStreamCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 1
        return *OK, 4711

    def do_cuMemGetInfo(self) -> tuple[Any, ...]:  # noqa: N802
        return *OK, 3 << 20, 8 << 20

    def do_cuMemAlloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        block = np.full(size, 0xFF, np.uint8)
        self.memory[block.ctypes.data] = block
        return *OK, block.ctypes.data

    do_cuMemAllocHost = do_cuMemAlloc  # noqa: N815

    def do_cuMemFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        assert self._capture is None, "nothing is freed within a capture"
        del self.memory[address]
        return OK

    do_cuMemFreeHost = do_cuMemFree  # noqa: N815

    def do_cuPointerGetAttribute(self, attribute: int, address: int) -> tuple[Any, ...]:  # noqa: N802
        assert attribute == 9
        known = any(start <= address < start + len(block) for start, block in self.memory.items())
        return (*OK, 0) if known else (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, None)

    def do_cuMemsetD8Async(self, address: int, value: int, count: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._queued(stream, lambda: ctypes.memset(address, value, count))

    def do_cuMemcpyAsync(self, target: int, source: int, count: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._queued(stream, lambda: ctypes.memmove(target, source, count))

    def do_cuMemcpy2DAsync(self, plan: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert plan.srcMemoryType == plan.dstMemoryType == 2
        assert plan.WidthInBytes <= min(plan.srcPitch, plan.dstPitch)

        def run() -> None:
            for row in range(plan.Height):
                target, source = plan.dstDevice + row * plan.dstPitch, plan.srcDevice + row * plan.srcPitch
                ctypes.memmove(target, source, plan.WidthInBytes)

        return self._queued(stream, run)

    def do_cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        assert (stream, mode) == (4711, 1)
        self._capture = []
        return OK

    def do_cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream == 4711
        work, self._capture = self._capture, None
        assert work is not None
        self._graphs[len(self._graphs)] = work
        return *OK, len(self._graphs) - 1

    def do_cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 0
        return *OK, graph

    def do_cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream == 4711
        for work in self._graphs[graph]:
            work()
        return OK

    def _queued(self, stream: int, work: Callable[[], object]) -> tuple[Any, ...]:
        assert stream == 4711
        if self._capture is None:
            work()
        else:
            self._capture.append(lambda: work() and None)
        return OK
