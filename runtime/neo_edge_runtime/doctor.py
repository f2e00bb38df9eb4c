"""What this installation can run, for `neo-edge doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import distributions

from neo_edge.errors import BrokenPackageError, MissingExtraError
from neo_edge.extras import require
from neo_edge.finding import Finding
from neo_edge_runtime.cpu.findings import kernel_findings
from neo_edge_runtime.gpu_findings import gpu_findings
from neo_edge_runtime.ort_backend import MODERN_ORT, ort_version

ONNX_RUNTIME = "onnxruntime"


def findings() -> Iterable[Finding]:
    """Whether bundles run here, and which."""
    yield from _onnxruntime()
    yield from kernel_findings()
    yield from gpu_findings()


def onnxruntime_packages() -> dict[str, str]:
    """Every installed distribution of ONNX Runtime, by name."""
    names = ((item.name, item.version) for item in distributions())
    return {
        name: version for name, version in names if name.replace("_", "-").lower().startswith(ONNX_RUNTIME)
    }


def _onnxruntime() -> Iterable[Finding]:
    packages = onnxruntime_packages()
    found = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    try:
        ort = require(ONNX_RUNTIME, extra="cpu")
    except (MissingExtraError, BrokenPackageError) as error:
        why, _, cure = str(error).partition(": ")
        yield Finding("answer from bundles", False, why, cure)
        return
    yield Finding("answer from bundles", True, found or f"onnxruntime {ort.__version__}")
    if len(packages) > 1:
        yield Finding(
            "keep ONNX Runtime whole",
            False,
            f"{found} install into one folder and overwrite each other",
            f"pip uninstall -y {' '.join(sorted(packages))}, then install one of them",
        )
    modern = ort_version(ort) >= MODERN_ORT
    wanted = ".".join(map(str, MODERN_ORT))
    yield Finding(
        "run variants of the modern profile",
        modern,
        f"onnxruntime {ort.__version__}" + ("" if modern else f", and they need {wanted} or newer"),
        "" if modern else "upgrade onnxruntime (Python 3.11 or newer), or export with --ops portable",
    )
