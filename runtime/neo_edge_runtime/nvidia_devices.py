"""NVIDIA GPUs and their driver, asked through the driver's own library (NVML) without any package."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

_LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96  # NVML's longest name or version


@dataclass(frozen=True)
class NvidiaDevice:
    """One GPU."""

    name: str
    memory_bytes: int | None  # None: shared with the processor, as on a Jetson
    compute_capability: str  # "9.0"; empty when the driver is too old to say
    used_bytes: int | None = field(default=None, compare=False)  # by all programs, when the driver was asked


@dataclass(frozen=True)
class NvidiaDriver:
    """The driver and its GPUs."""

    version: str
    cuda: str  # newest CUDA that it runs; empty when it is too old to say
    devices: tuple[NvidiaDevice, ...]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def nvidia_driver(library: str = _LIBRARY) -> NvidiaDriver | str:
    """The driver, or why there is none to ask."""
    try:
        nvml = ctypes.CDLL(library)
        status = nvml.nvmlInit_v2()
    except (OSError, AttributeError):
        return f"no NVIDIA driver ({library} is not there)"
    if status != 0:
        return f"the NVIDIA driver does not start (NVML status {status}): its kernel module may not be loaded"
    try:
        return NvidiaDriver(
            version=_text(nvml, "nvmlSystemGetDriverVersion"), cuda=_cuda(nvml), devices=tuple(_devices(nvml))
        )
    finally:
        nvml.nvmlShutdown()


def used_device_bytes(library: str = _LIBRARY) -> int | None:
    """What all programs use of all GPUs' memory now; None where the driver does not say, as on a Jetson."""
    driver = nvidia_driver(library)
    if isinstance(driver, str) or not driver.devices:
        return None
    used = [device.used_bytes for device in driver.devices]
    return None if None in used else sum(size for size in used if size is not None)


def _devices(nvml: ctypes.CDLL) -> list[NvidiaDevice]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    devices = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            continue
        memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
        has_memory = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
        known = nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0
        devices.append(
            NvidiaDevice(
                name=_text(nvml, "nvmlDeviceGetName", handle),
                memory_bytes=int(memory.total) if has_memory else None,
                compute_capability=f"{major.value}.{minor.value}" if known else "",
                used_bytes=int(memory.used) if has_memory else None,
            )
        )
    return devices


def _cuda(nvml: ctypes.CDLL) -> str:
    number = ctypes.c_int()
    if not hasattr(nvml, "nvmlSystemGetCudaDriverVersion_v2"):
        return ""
    if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) != 0:
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _text(nvml: ctypes.CDLL, function: str, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    status = getattr(nvml, function)(*arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
    return buffer.value.decode("utf-8", "replace") if status == 0 else "unknown"
