"""The kernels in C++, each held against plain code by a small program, in the builds that machines get and others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cpu_machine import NO_KERNELS

from neo_edge_runtime.cpu.compiling import FLAGS, SOURCES, find_compiler

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS)

CHECKS = Path(__file__).parent / "cpu_kernels"
OF_A_PROGRAM = tuple(flag for flag in FLAGS if flag not in ("-fPIC", "-shared", "-fvisibility=hidden"))
WITHOUT_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# GCC 12 takes what its own headers leave undefined on purpose for an oversight.
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-uninitialized")
BUILDS = {
    "as shipped": (),
    "without AMX": WITHOUT_AMX,
    "sanitized": SANITIZED,
    "sanitized, without AMX": (*SANITIZED, *WITHOUT_AMX),
    "threads": ("-O1", "-g1", "-fsanitize=thread"),
}
# What a build could add is worth its seconds: some programs take ten of them to compile.
RUNS = [
    *(("decoder", build) for build in ("sanitized", "without AMX")),
    *(("products", build) for build in ("sanitized", "without AMX")),
    *(("attention", build) for build in ("as shipped", "without AMX", "sanitized")),
    *((check, build) for check in ("int4", "int8") for build in list(BUILDS)[:4]),
    *(("elementwise", build) for build in ("as shipped", "sanitized")),
    *(("pool", build) for build in ("as shipped", "sanitized", "threads")),
]
_COMPILE_S, _RUN_S = 240, 240


def compiled(source: Path, target: Path, flags: tuple[str, ...]) -> None:
    command = [*find_compiler(), *flags, *STRICT, f"-I{SOURCES}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_S)
    assert (done.returncode, done.stderr) == (0, "")


def checked(check: str, build: str, folder: Path) -> str:
    """What the program says."""
    program = folder / f"{check}, {build}"
    compiled(CHECKS / f"{check}_check.cpp", program, (*OF_A_PROGRAM, *BUILDS[build]))
    few = ["few"] if check == "attention" else []  # all cases take seconds, and a minute under a sanitizer
    done = subprocess.run([program, *few], capture_output=True, text=True, timeout=_RUN_S)
    return f"{done.stdout}{done.stderr}{done.returncode or ''}"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[str]]]:
    """All programs, two at a time."""
    folder = tmp_path_factory.mktemp("checks")
    with ThreadPoolExecutor(2) as pool:
        yield {run: pool.submit(checked, *run, folder) for run in RUNS}


@pytest.mark.parametrize(("check", "build"), RUNS)
def test_a_kernel_computes_what_plain_code_does(
    check: str, build: str, later: dict[tuple[str, str], Future[str]]
) -> None:
    assert later[check, build].result() == "ok\n"


def test_every_check_is_run() -> None:
    assert {f"{check}_check.cpp" for check, _ in RUNS} == {path.name for path in CHECKS.iterdir()}


def test_the_library_compiles_without_a_warning(tmp_path: Path) -> None:
    compiled(SOURCES / "decoder.cpp", tmp_path / "decoder.so", FLAGS)
