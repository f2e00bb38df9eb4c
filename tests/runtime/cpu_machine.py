"""Whether this machine can compile and run the kernels in C++."""

from __future__ import annotations

import platform

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
