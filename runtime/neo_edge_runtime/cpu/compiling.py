"""The kernels of `src/` as a library of this machine, made by its C++ compiler."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge_runtime.cpu.layout import FORMAT

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
COMPILE_S = 300.0  # that it may take: some seconds are usual
_SHOWN = 400  # characters of a compiler's complaint


class NoKernels(Exception):  # noqa: N818 - no error: ONNX Runtime's kernels do the work
    """Why a variant gets no kernels of its own here, in one line."""


@cache
def sources_digest() -> str:
    """sha256 of all sources, how they are compiled and the form of what they read; another one is another entry."""
    digest = hashlib.sha256(f"{FORMAT} {shlex.join(FLAGS)}".encode())
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
    variable = os.environ.get("CXX", "")
    try:
        asked = shlex.split(variable)
    except ValueError as error:
        raise NoKernels(f"the variable CXX is {variable!r}, which is no command ({error})") from error
    for command in (asked,) if asked else ([name] for name in _COMPILERS):
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    tried = " or ".join(_COMPILERS) if not asked else f"{asked[0]!r} of the variable CXX"
    raise NoKernels(f"there is no C++ compiler ({tried}) to compile them with")


def compile_library(folder: Path, *, limit_s: float = COMPILE_S) -> Path:
    """Writes the library into a directory.

    Args:
        folder: where; whatever the compiler writes on its way lies there, too, and is removed.
        limit_s: most seconds that it may take.

    Raises:
        NoKernels: there is no compiler, or it fails or takes longer.
        OSError: nothing can be written there.
    """
    compiler = find_compiler()
    library = folder / LIBRARY_FILE
    command = [*compiler, *FLAGS, str(SOURCES / "decoder.cpp"), "-o", str(library)]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        status, said = _run(command, Path(temporary), limit_s)
    if status != 0 or not library.is_file():
        shown = " ".join(said.split())[:_SHOWN]
        raise NoKernels(f"{shlex.join(compiler)} failed to compile them ({shown or f'status {status}'})")
    return library


def _run(command: list[str], temporary: Path, limit_s: float) -> tuple[int, str]:
    """Its exit status and what it said; whatever ends the wait ends the programs that it started, too."""
    try:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,  # a compiler is several programs: all of them are this group
        )
    except OSError as error:
        raise NoKernels(f"{command[0]} cannot be run ({error})") from error
    with running:
        try:
            said, _ = running.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise NoKernels(f"{command[0]} took more than {limit_s:g} s to compile them") from None
        finally:
            if running.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
    return running.wait(), said
