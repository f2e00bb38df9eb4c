"""Whether this machine can compile and run the kernels in C++."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

from neo_edge_runtime.control_groups import PROC, read_text
from neo_edge_runtime.cpu.compiling import NoKernels, find_compiler, require_processor
from neo_edge_runtime.prepacked_key import instruction_sets


def _why_not() -> str:
    try:
        require_processor(platform.machine(), instruction_sets(read_text(PROC / "cpuinfo")))
        find_compiler()
    except NoKernels as error:
        return str(error)
    return ""


NO_KERNELS = _why_not()  # why; empty: it can


def write_compiler(folder: Path, script: str, name: str = "compiler") -> Path:
    """A program for the variable CXX; in its shell script `$out` is what it is asked to write."""
    path = folder / name
    find_out = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done'
    path.write_text(f"#!/bin/sh\n{find_out}\n{script}\n")
    path.chmod(0o755)
    return path


def write_copying_compiler(folder: Path, library: Path) -> Path:
    """One that gives a library that was compiled before."""
    return write_compiler(folder, f"cp '{library}' \"$out\"", "copying-compiler")


def runs(process: int) -> bool:
    """Whether a process is there, and more than a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(come: Callable[[], bool], seconds: float = 60) -> None:
    """Fails if it does not come."""
    deadline = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.02)
