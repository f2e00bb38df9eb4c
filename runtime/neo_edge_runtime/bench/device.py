"""What machine figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from neo_edge_runtime.control_groups import PROC, read_text

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")
_WIDE = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd", "asimddp", "i8mm", "sve")


def device_lines(threads: int) -> list[str]:
    """Processor, cores, memory and system; versions and threads; what else keeps the machine busy."""
    cpuinfo = read_text(PROC / "cpuinfo")
    name = next(
        (line.split(": ", 1)[1] for line in cpuinfo.splitlines() if line.startswith("model name")), "?"
    )
    wide = [flag for flag in _WIDE if f" {flag} " in cpuinfo]
    lines = [f"{name} ({', '.join(wide)}), {os.cpu_count()} cores, {_memory()}{_system()}"]
    packages = ", ".join(f"{package} {found}" for package, found in _versions().items())
    kernel = platform.release().split("-")[0]
    lines.append(
        f"{platform.system()} {kernel}, Python {platform.python_version()}, {packages}; {threads} threads"
    )
    if hasattr(os, "getloadavg"):
        lines.append(f"load average before: {os.getloadavg()[0]:.2f}")
    return lines


def describe_device(threads: int) -> None:
    """Prints `device_lines`."""
    print("\n".join(device_lines(threads)), flush=True)


def _memory() -> str:
    kib = next(
        (
            line.split()[1]
            for line in read_text(PROC / "meminfo").splitlines()
            if line.startswith("MemTotal:")
        ),
        "",
    )
    return f"{int(kib) / 2**20:.0f} GiB, " if kib.isdigit() else ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
