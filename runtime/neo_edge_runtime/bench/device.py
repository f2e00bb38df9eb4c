"""What figures were measured on, in a few lines."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

from neo_edge_runtime.machine import this_machine

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")


def device_lines(threads: int) -> list[str]:
    """Processor, cores and memory; system, versions and threads; what else keeps the machine busy."""
    machine = this_machine()
    board = f"{machine.board}, " if machine.board else ""
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
    packages = ", ".join(f"{package} {found}" for package, found in _versions().items())
    system = re.sub(r"^(\S+ [\d.]+)[^,]*", r"\1", machine.system)  # a kernel's own suffix says nothing here
    lines = [
        f"{board}{machine.cpu} ({', '.join(machine.cpu_flags)}), {machine.logical_cores} cores{memory}",
        f"{system}, Python {platform.python_version()}, {packages}; {threads} threads",
    ]
    if hasattr(os, "getloadavg"):
        lines.append(f"load average before: {os.getloadavg()[0]:.2f}")
    return lines


def describe_device(threads: int) -> None:
    """Prints `device_lines`."""
    print("\n".join(device_lines(threads)), flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
