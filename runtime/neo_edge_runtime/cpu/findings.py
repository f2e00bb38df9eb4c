"""Whether kernels of our own can be built here, for `neo-edge doctor`."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from neo_edge.errors import MissingExtraError
from neo_edge.finding import Finding, installed_version
from neo_edge_runtime.control_groups import PROC, read_text
from neo_edge_runtime.cpu.compiling import NoKernels, find_compiler, require_processor
from neo_edge_runtime.prepacked_key import instruction_sets

WHAT = "build kernels for quantized decoders"
_PRODUCTS = ("avx512_vnni", "amx_int8")  # what products are computed with, where it is there
_ASK_S = 10.0


def kernel_findings(architecture: str = platform.machine(), proc: Path = PROC) -> Iterable[Finding]:
    """One: processor, compiler and the package that reads graphs, or what of these is missing.

    Args:
        architecture: of the processor.
        proc: where Linux describes it.
    """
    instructions = instruction_sets(read_text(proc / "cpuinfo"))
    try:
        require_processor(architecture, instructions)
    except NoKernels as error:
        yield Finding(WHAT, False, str(error), "nothing to do: ONNX Runtime's kernels compute them")
        return
    try:
        compiler = find_compiler()
    except NoKernels as error:
        yield Finding(
            WHAT, False, str(error), "install g++ or clang++, or name one in CXX, then run neo-edge prepack"
        )
        return
    onnx = installed_version("onnx")
    if onnx is None:
        why, _, cure = str(MissingExtraError("onnx", "calibrate")).partition(": ")
        yield Finding(WHAT, False, why, cure)
        return
    has = " and ".join(name for name in _PRODUCTS if name in instructions)
    yield Finding(WHAT, True, f"{architecture} with {has}; {_version(compiler)}; onnx {onnx}")


def _version(compiler: list[str]) -> str:
    """What a compiler calls itself; its name where it says nothing. No folder: reports are pasted."""
    name = shlex.join([Path(compiler[0]).name, *compiler[1:]])
    try:
        asked = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=_ASK_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return name
    return next((line.strip() for line in asked.stdout.splitlines() if line.strip()), name)
