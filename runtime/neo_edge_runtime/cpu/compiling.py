"""The kernels of `src/` as a library of this machine, made by its C++ compiler."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

SOURCES = Path(__file__).parent / "src"
LIBRARY_FILE = "decoder.so"
# What every kernel may use; AMX comes with -march=native where the processor has it, and is asked for at run time.
INSTRUCTIONS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma", "f16c"})
_COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno"),
    *("-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
)
_COMPILE_S = 300.0
_SHOWN = 400  # characters of a compiler's complaint


class NoKernels(Exception):  # noqa: N818 - no error: ONNX Runtime's kernels do the work
    """Why a variant gets no kernels of its own here, in one line."""


@cache
def sources_digest() -> str:
    """sha256 of all sources and of how they are compiled; another one is another library."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cpp"):
            digest.update(f"\n{path.name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def require_processor(architecture: str, instructions: Collection[str]) -> None:
    """Raises `NoKernels` if the kernels cannot run on such a processor.

    Args:
        architecture: as `platform.machine()` says it.
        instructions: as Linux lists them in /proc/cpuinfo.
    """
    if architecture != "x86_64":
        raise NoKernels(f"they are written for x86_64, and this is {architecture}")
    if missing := sorted(INSTRUCTIONS - set(instructions)):
        raise NoKernels(f"they need {', '.join(missing)}, which this processor lacks")


def find_compiler() -> list[str]:
    """The command of `CXX`, else of the first C++ compiler on the path; raises `NoKernels` if there is none."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in (asked,) if asked else ([name] for name in _COMPILERS):
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    tried = " or ".join(_COMPILERS) if not asked else f"{asked[0]!r} of the variable CXX"
    raise NoKernels(f"there is no C++ compiler ({tried}) to compile them with")


def compile_library(folder: Path) -> Path:
    """Writes the library into a directory, which takes half a minute at most.

    Raises:
        NoKernels: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    library = folder / LIBRARY_FILE
    command = [*compiler, *FLAGS, str(SOURCES / "decoder.cpp"), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_COMPILE_S)
    except subprocess.TimeoutExpired:
        raise NoKernels(f"{compiler[0]} took more than {_COMPILE_S:.0f} s to compile them") from None
    except OSError as error:
        raise NoKernels(f"{compiler[0]} cannot be run ({error})") from error
    if done.returncode != 0 or not library.is_file():
        said = " ".join((done.stderr or done.stdout).split())[:_SHOWN]
        raise NoKernels(f"{shlex.join(compiler)} failed to compile them ({said or done.returncode})")
    return library
