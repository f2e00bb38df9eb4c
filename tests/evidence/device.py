"""One paragraph about the machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("numpy", "onnxruntime", "torch")


def describe_device(threads: int) -> None:
    """Prints processor, cores, memory, system, versions, and the threads that everything gets."""
    cpuinfo = _text("/proc/cpuinfo")
    name = next(
        (line.split(": ", 1)[1] for line in cpuinfo.splitlines() if line.startswith("model name")), "?"
    )
    wide = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd") if f" {flag} " in cpuinfo
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = next(
        (
            line.split('"')[1]
            for line in _text("/etc/os-release").splitlines()
            if line.startswith("PRETTY_NAME")
        ),
        "?",
    )
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print(f"{name} ({', '.join(wide)}), {os.cpu_count()} cores, {pages / 2**30:.0f} GiB, {system}")
    print(
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, {packages}; {threads} threads"
    )
    print(f"load average before: {os.getloadavg()[0]:.2f}", flush=True)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
