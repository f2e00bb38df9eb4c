"""What a machine has, known without loading anything that may crash, and why a part cannot run there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from neo_edge_runtime.nvidia_devices import NvidiaDriver, nvidia_driver

# Modules by what brings them; a part names those that it cannot do without.
MODULES = {
    "cuda": "cuda-bindings",
    "onnxruntime": "onnxruntime-gpu",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "torch": "torch",
    "onnx": "onnx",
}
_ELSEWHERE = {"tensorrt_rtx": ("tensorrt_rtx_bindings",)}  # the two RTX wheels alone give this one


@dataclass(frozen=True)
class Facts:
    """Of one machine."""

    driver: NvidiaDriver | str  # or why there is none
    modules: frozenset[str]  # of `MODULES`
    onnxruntime_package: str | None  # the installed distribution: `onnxruntime` is for CPUs


def this_machine() -> Facts:
    """Of this one."""
    found = {
        name for name in MODULES if any(_importable(module) for module in (name, *_ELSEWHERE.get(name, ())))
    }
    return Facts(nvidia_driver(), frozenset(found), _onnxruntime())


def why_not(facts: Facts, needs: tuple[str, ...]) -> str:
    """Why a part that needs these modules and a GPU cannot run; empty: it can."""
    if isinstance(facts.driver, str):
        return facts.driver
    if not facts.driver.devices:
        return f"the driver {facts.driver.version} shows no GPU: see CUDA_VISIBLE_DEVICES, or the container's options"
    missing = [MODULES[name] for name in needs if name not in facts.modules]
    if missing:
        return f"not installed: {', '.join(missing)} (docs/offline-gpu.md says how without a registry)"
    if "onnxruntime" in needs and facts.onnxruntime_package == "onnxruntime":
        return 'the onnxruntime here is the one for CPUs: pip uninstall -y onnxruntime, pip install "neo-edge[gpu]"'
    return ""


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _onnxruntime() -> str | None:
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            version(package)
        except PackageNotFoundError:
            continue
        return package
    return None
