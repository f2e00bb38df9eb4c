"""Whether this machine can compile and run the kernels in C++."""

from __future__ import annotations

import platform
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
