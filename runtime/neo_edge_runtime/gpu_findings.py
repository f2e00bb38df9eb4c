"""Which of the GPU backends will work here, and what keeps the others from it, for `neo-edge doctor`.

What is said is known without loading a bundle; `make gpu-check` runs them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from types import ModuleType

from neo_edge.engines import EngineBackend
from neo_edge.errors import NeoEdgeError
from neo_edge.extras import require
from neo_edge.finding import Finding
from neo_edge_runtime.nvidia_devices import NvidiaDriver, nvidia_driver
from neo_edge_runtime.ort_device import CudaDevice
from neo_edge_runtime.tensorrt.installed import MODULES, Installed, find_tensorrt

FindTensorRT = Callable[[EngineBackend], Installed]
_NAMES: dict[EngineBackend, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def gpu_findings(
    driver: Callable[[], NvidiaDriver | str] = nvidia_driver,
    *,
    onnxruntime: Callable[[], ModuleType] = lambda: require("onnxruntime", extra="gpu"),
    tensorrt: FindTensorRT = find_tensorrt,
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
) -> Iterable[Finding]:
    """One for each backend.

    Args:
        driver: NVIDIA's, or why there is none.
        onnxruntime: gives the module.
        tensorrt: gives an installed TensorRT; it is asked where there is a GPU only, since it loads its libraries.
        has_module: whether a top-level module is installed.
    """
    yield _cuda_provider(driver, onnxruntime)
    for backend in MODULES:
        yield _engines(backend, driver, tensorrt, has_module)


def _cuda_provider(
    driver: Callable[[], NvidiaDriver | str], onnxruntime: Callable[[], ModuleType]
) -> Finding:
    what = "answer on a GPU with ONNX Runtime (--backend onnxruntime-cuda)"
    try:
        ort = onnxruntime()
        CudaDevice(driver=driver).require(ort)
    except NeoEdgeError as error:
        return _refused(what, error)
    return Finding(
        what, True, f"onnxruntime {ort.__version__} with CUDA {getattr(ort, 'cuda_version', '')}".strip()
    )


def _engines(
    backend: EngineBackend,
    driver: Callable[[], NvidiaDriver | str],
    tensorrt: FindTensorRT,
    has_module: Callable[[str], bool],
) -> Finding:
    what = f"answer on a GPU with {_NAMES[backend]} (--backend {backend})"
    found = driver()
    if isinstance(found, str):
        return Finding(what, False, found, "install NVIDIA's driver, or start the container with a GPU")
    if not found.devices:
        return Finding(what, False, f"the driver {found.version} shows no GPU", "check CUDA_VISIBLE_DEVICES")
    try:
        installed = tensorrt(backend)
    except NeoEdgeError as error:
        return _refused(what, error)
    if not has_module("cuda"):
        return Finding(what, False, "cuda-bindings is not installed", f'pip install "neo-edge[{backend}]"')
    gpus = ", ".join(f"{device.name} ({device.compute_capability or '?'})" for device in found.devices)
    return Finding(what, True, f"{backend} {installed.version}, {gpus}; engines come from neo-edge build")


def _refused(what: str, error: NeoEdgeError) -> Finding:
    why, _, cure = str(error).rpartition(": ")
    return Finding(what, False, why or str(error), cure if why else "")
