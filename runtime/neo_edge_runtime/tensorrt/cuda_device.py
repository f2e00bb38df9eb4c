"""One NVIDIA GPU, its memory and one stream, through the CUDA driver."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from neo_edge.errors import BackendError, NeoEdgeError
from neo_edge_runtime.tensorrt.cuda_driver import CudaDriver
from neo_edge_runtime.tensorrt.cuda_kernels import CudaKernels, compile_kernels
from neo_edge_runtime.tensorrt.device import Graph, Kernels, PinnedMemory, Rows

_log = logging.getLogger(__name__)


class CudaDevice:
    """A GPU, with the context that TensorRT uses, too (CUDA's primary one)."""

    def __init__(self, index: int = 0, *, extra: str = "tensorrt", cuda: CudaDriver | None = None) -> None:
        """Takes the device.

        Args:
            index: CUDA's number of it, which CUDA_VISIBLE_DEVICES changes.
            extra: of the `neo-edge` package that brings what is needed, for messages.
            cuda: the driver; None: through cuda-bindings.

        Raises:
            MissingExtraError, BrokenPackageError: cuda-bindings is not there, or does not load.
            BackendError: there is no driver, no GPU, or none of that number.
        """
        cuda = self._cuda = CudaDriver(extra) if cuda is None else cuda
        count = cuda.call("cuDeviceGetCount")
        if not 0 <= index < count:
            raise BackendError(f"there is no GPU {index}: the driver finds {count}, from 0 on")
        self._index, self._device = index, cuda.call("cuDeviceGet", index)
        name = cuda.call("cuDeviceGetName", 96, self._device)
        self.name = name.rstrip(b"\0").decode("utf-8", "replace")
        attributes = cuda.names.CUdevice_attribute
        numbers = (
            cuda.call("cuDeviceGetAttribute", attribute, self._device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.compute_capability = "".join(map(str, numbers))
        self._context = cuda.call("cuDevicePrimaryCtxRetain", self._device)
        self._closed = self._capturing = False
        # The garbage collector may close a state at any time, and a capture allows no freeing.
        self._freed_in_capture: list[int | PinnedMemory] = []
        self.activate()
        flags = cuda.names.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = cuda.call("cuStreamCreate", int(flags))
        self._kernels = self._compiled()

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    @property
    def kernels(self) -> Kernels | None:
        """None where NVRTC is not installed."""
        return self._kernels

    def activate(self) -> None:
        """Makes the device the calling thread's."""
        self._cuda.call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Memory that is free on the device now."""
        free, _ = self._cuda.call("cuMemGetInfo")
        return int(free)

    def allocate(self, size_bytes: int, purpose: str) -> int:
        """Address of device memory."""
        what = f"{purpose} ({size_bytes / 2**20:.1f} MiB; {self.free_bytes() / 2**20:.1f} MiB are free)"
        return int(self._cuda.call("cuMemAlloc", max(1, size_bytes), purpose=what))

    def free(self, address: int) -> None:
        """Gives device memory back, after what is queued."""
        if self._capturing:
            self._freed_in_capture.append(address)
        elif not self._closed:
            self.synchronize()
            self._cuda.call("cuMemFree", address)

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        """Page-locked host memory."""
        size = max(1, size_bytes)
        address = int(self._cuda.call("cuMemAllocHost", size, purpose="page-locked host memory"))
        pages = (ctypes.c_uint8 * size).from_address(address)
        return PinnedMemory(address, np.frombuffer(memoryview(pages), np.uint8))

    def free_pinned(self, memory: PinnedMemory) -> None:
        """Gives it back."""
        if self._capturing:
            self._freed_in_capture.append(memory)
        elif not self._closed:
            self.synchronize()
            self._cuda.call("cuMemFreeHost", memory.address)

    def zero(self, address: int, size_bytes: int) -> None:
        """Queues zeros."""
        self._cuda.call("cuMemsetD8Async", address, 0, size_bytes, self._stream)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queues a copy; the driver knows from the addresses where they lie."""
        self._cuda.call("cuMemcpyAsync", target, source, size_bytes, self._stream)

    def copy_rows(self, target: Rows, source: Rows, *, width_bytes: int, rows: int) -> None:
        """Queues a copy of pieces within the device."""
        names = self._cuda.names
        plan = names.CUDA_MEMCPY2D()
        plan.srcMemoryType = plan.dstMemoryType = names.CUmemorytype.CU_MEMORYTYPE_DEVICE
        plan.srcDevice, plan.srcPitch = source.address, source.pitch
        plan.dstDevice, plan.dstPitch = target.address, target.pitch
        plan.WidthInBytes, plan.Height = width_bytes, rows
        self._cuda.call("cuMemcpy2DAsync", plan, self._stream)

    def holds(self, address: int) -> bool:
        """Whether an address that somebody else allocated is memory of this device."""
        attribute = self._cuda.names.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        try:
            return bool(self._cuda.call("cuPointerGetAttribute", attribute, address) == self._index)
        except BackendError:  # not CUDA's memory at all
            return False

    def wait_for_others(self) -> None:
        """Waits for all work on the device."""
        self._cuda.call("cuCtxSynchronize")

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """What `work` queues, as a graph; None when something of it cannot be captured."""
        cuda = self._cuda
        mode = cuda.names.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        cuda.call("cuStreamBeginCapture", self._stream, mode)
        self._capturing = True
        try:
            work()
        except BackendError as error:
            self._end_capture()
            _log.info("the decode step cannot be captured as a CUDA graph: %s", error)
            return None
        except BaseException:
            self._end_capture()
            raise
        graph = self._end_capture()
        if graph is None:
            return None
        try:
            return _CudaGraph(cuda, self._stream, cuda.call("cuGraphInstantiate", graph, 0))
        finally:
            cuda.call("cuGraphDestroy", graph)

    def synchronize(self) -> None:
        """Waits until all that was queued is done."""
        self._cuda.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Gives the stream, the kernels and the context back; memory that is left goes with the process."""
        if self._closed:
            return
        self.activate()
        self._cuda.call("cuStreamSynchronize", self._stream)
        self._closed = True
        if self._kernels is not None:
            self._kernels.close()
        self._cuda.call("cuStreamDestroy", self._stream)
        self._cuda.call("cuDevicePrimaryCtxRelease", self._device)

    def _end_capture(self) -> Any:  # a CUgraph
        self._capturing = False
        try:
            return self._cuda.call("cuStreamEndCapture", self._stream)
        except BackendError as error:  # what was captured is void; the stream works on
            _log.info("the decode step cannot be captured as a CUDA graph: %s", error)
            return None
        finally:
            freed, self._freed_in_capture = self._freed_in_capture, []
            for memory in freed:
                if isinstance(memory, PinnedMemory):
                    self.free_pinned(memory)
                else:
                    self.free(memory)

    def _compiled(self) -> CudaKernels | None:
        try:
            return CudaKernels(self._cuda, self._stream, compile_kernels(self.compute_capability))
        except NeoEdgeError as error:
            _log.warning("the backend's own programs do not run here: %s", error)
            return None


class _CudaGraph:
    """A graph that is ready to run."""

    def __init__(self, cuda: CudaDriver, stream: object, executable: object) -> None:
        self._cuda, self._stream, self._executable = cuda, stream, executable

    def launch(self) -> None:
        """Queues all of it at once."""
        self._cuda.call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Gives it back."""
        if self._executable is not None:
            self._cuda.call("cuGraphExecDestroy", self._executable)
            self._executable = None
