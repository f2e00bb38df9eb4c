"""What the doctor says of GPU backends: which work, and what to do about the others."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from neo_edge.engines import EngineBackend
from neo_edge.errors import BackendError, MissingExtraError
from neo_edge.finding import Finding
from neo_edge_runtime.gpu_findings import gpu_findings
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver
from neo_edge_runtime.tensorrt.installed import Installed, TensorRT

ORIN = NvidiaDriver("540.4", "12.6", (NvidiaDevice("Orin", None, "8.7"),))
GPU_BUILD = ("CUDAExecutionProvider", "CPUExecutionProvider")


def ort(providers: Sequence[str] = GPU_BUILD) -> ModuleType:
    found = SimpleNamespace(
        __version__="1.23.2", cuda_version="12.6", get_available_providers=lambda: list(providers)
    )
    return cast("ModuleType", found)


def installed(backend: EngineBackend) -> Installed:
    if backend == "tensorrt-rtx":
        raise MissingExtraError("tensorrt_rtx", backend)
    return Installed(backend, "10.3.0", cast("TensorRT", SimpleNamespace()))


def findings(
    driver: NvidiaDriver | str = ORIN, providers: Sequence[str] = GPU_BUILD, *, cuda: bool = True
) -> list[Finding]:
    return list(
        gpu_findings(
            lambda: driver, onnxruntime=lambda: ort(providers), tensorrt=installed, has_module=lambda _: cuda
        )
    )


def test_what_works_says_with_what() -> None:
    cuda, tensorrt, rtx = findings()
    assert (cuda.works, tensorrt.works, rtx.works) == (True, True, False)
    assert cuda.why == "onnxruntime 1.23.2 with CUDA 12.6"
    assert tensorrt.why == "tensorrt 10.3.0, Orin (8.7); engines come from neo-edge build"
    assert 'pip install "neo-edge[tensorrt-rtx]"' in rtx.cure


def test_without_a_driver_nothing_works_and_tensorrt_is_not_loaded() -> None:
    def never(_: EngineBackend) -> Installed:
        raise AssertionError("TensorRT was loaded")

    found = list(
        gpu_findings(lambda: "no NVIDIA driver", onnxruntime=ort, tensorrt=never, has_module=lambda _: True)
    )
    assert not any(one.works for one in found)
    assert all("no NVIDIA driver" in one.why for one in found)
    assert all("install NVIDIA's driver" in one.cure for one in found)


@pytest.mark.parametrize(
    ("found", "why", "cure"),
    [
        (
            findings(providers=("CPUExecutionProvider",))[0],
            "has no CUDAExecutionProvider",
            'pip install "neo-edge[gpu]"',
        ),
        (
            findings(NvidiaDriver("540.4", "12.6", ()))[1],
            "the driver 540.4 shows no GPU",
            "CUDA_VISIBLE_DEVICES",
        ),
        (findings(cuda=False)[1], "cuda-bindings is not installed", 'pip install "neo-edge[tensorrt]"'),
    ],
)
def test_what_is_missing_has_its_cure(found: Finding, why: str, cure: str) -> None:
    assert not found.works
    assert why in found.why
    assert cure in found.cure


def test_an_old_tensorrt_is_a_finding_and_no_error() -> None:
    def old(backend: EngineBackend) -> Installed:
        raise BackendError(f"{backend} 8.6 is installed; 10.3 or newer is needed: install a newer JetPack")

    (_, found, _) = gpu_findings(lambda: ORIN, onnxruntime=ort, tensorrt=old, has_module=lambda _: True)
    assert (found.works, found.cure) == (False, "install a newer JetPack")
