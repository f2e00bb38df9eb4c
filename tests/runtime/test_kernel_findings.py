"""What `neo-edge doctor` says about kernels of our own: processor, compiler and the package that reads graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_edge.finding import Finding
from neo_edge_runtime.cpu import findings
from neo_edge_runtime.cpu.compiling import INSTRUCTIONS
from neo_edge_runtime.cpu.findings import kernel_findings


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Describes a processor that can run them."""
    (tmp_path / "cpuinfo").write_text(f"model name : A\nflags : fpu amx_int8 {' '.join(INSTRUCTIONS)}\n")
    return tmp_path


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that CXX names."""
    path = tmp_path / "my-c++"
    path.write_text("#!/bin/sh\n[ \"$1 $2\" = '-g --version' ] && printf '\\nmy compiler 7\\nmore\\n'\n")
    path.chmod(0o700)
    monkeypatch.setenv("CXX", f"{path} -g")
    return path


def only(found: list[Finding]) -> Finding:
    (one,) = found
    assert one.what == "build kernels for quantized decoders"
    return one


@pytest.mark.usefixtures("compiler")
def test_what_they_would_be_built_with_is_said(proc: Path) -> None:
    one = only(list(kernel_findings("x86_64", proc)))
    assert one.works
    assert one.why.startswith("x86_64 with avx512_vnni and amx_int8; my compiler 7; onnx 1.")


def test_a_compiler_that_does_not_say_what_it_is_goes_by_its_name_without_its_folder(
    proc: Path, compiler: Path
) -> None:
    compiler.write_text("#!/bin/sh\nexit 1\n")
    assert "; my-c++ -g; onnx" in only(list(kernel_findings("x86_64", proc))).why


def test_without_a_compiler_it_says_which_to_install(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(proc))
    one = only(list(kernel_findings("x86_64", proc)))
    assert not one.works
    assert one.why == "there is no C++ compiler (c++ or g++ or clang++) to compile them with"
    assert "install g++ or clang++" in one.cure


@pytest.mark.usefixtures("compiler")
def test_without_the_package_that_reads_graphs_the_pip_line_is_there(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "installed_version", lambda _: None)
    one = only(list(kernel_findings("x86_64", proc)))
    assert not one.works
    assert "'onnx' is needed" in one.why
    assert 'pip install "neo-edge[calibrate]"' in one.cure


@pytest.mark.parametrize(
    ("architecture", "flags", "why"),
    [
        ("aarch64", "asimd", "they are written for x86_64, and this is aarch64"),
        (
            "x86_64",
            " ".join(sorted(INSTRUCTIONS - {"avx512_vnni"})),
            "they need avx512_vnni, which this processor lacks",
        ),
    ],
)
def test_on_another_processor_there_is_nothing_to_do(
    architecture: str, flags: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    one = only(list(kernel_findings(architecture, tmp_path)))
    assert (one.works, one.why) == (False, why)
    assert one.cure == "nothing to do: ONNX Runtime's kernels compute them"
