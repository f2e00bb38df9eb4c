"""Where kernels of our own cannot be had or compute something else, ONNX Runtime's do the work and we say why."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cpu_machine import NO_KERNELS, runs, wait_until, write_compiler, write_copying_compiler
from quantized_decoders import decoder_path, with_variants

import neo_edge
from neo_edge.bundle import Bundle
from neo_edge.cli import main
from neo_edge.errors import BundleCorruptError
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_runtime import prepacked_key
from neo_edge_runtime.cpu import build
from neo_edge_runtime.cpu.build import MOST_LOGIT_ERROR
from neo_edge_runtime.cpu.compiling import (
    INSTRUCTIONS,
    SOURCES,
    NoKernels,
    compile_library,
    find_compiler,
    require_processor,
)
from neo_edge_runtime.cpu.layout import DecoderLayout, read_layout
from neo_edge_runtime.cpu.recognition import DecoderWeights
from neo_edge_runtime.prepacked import PrepackedCache
from neo_edge_runtime.prepacked_build import fill_cache
from neo_edge_runtime.prepacked_key import surroundings

pytestmark = [
    pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS),
    pytest.mark.usefixtures("prepacked_cache"),
]


@pytest.fixture
def copying(kernel_library: Path, tmp_path: Path) -> Path:
    """A compiler that gives what was compiled before."""
    return write_copying_compiler(tmp_path, kernel_library)


def missing(_: Path) -> str:
    return "missing-compiler -O2"


def no_program(folder: Path) -> str:
    (folder / "data").write_bytes(b"\x00\x01\x02" * 100)
    (folder / "data").chmod(0o755)
    return str(folder / "data")


def scripted(script: str) -> Callable[[Path], str]:
    return lambda folder: f"{write_compiler(folder, script)} -m64"


SHORT = r"^what was compiled cannot be used \(decoder\.so: file too short\)$"
COMPILERS: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (missing, r"there is no C\+\+ compiler \('missing-compiler' of the variable CXX\)"),
    "false": (lambda _: "false", r"/false failed to compile them \(status 1\)"),
    "half a quote": (lambda _: "'g++", r"the variable CXX is \"'g\+\+\", which is no command \(No closing"),
    "a folder": (str, r"there is no C\+\+ compiler \('/.*' of the variable CXX\)"),
    "data": (no_program, r"data cannot be run \(\[Errno 8\] Exec format error"),
    "writes nothing": (scripted(":"), r"compiler -m64 failed to compile them \(status 0\)"),
    "writes text": (
        scripted('echo text > "$out"'),
        SHORT,
    ),
    "writes an empty file": (
        scripted(': > "$out"'),
        SHORT,
    ),
    "complains": (
        scripted('echo "fatal error:\n  no such header" >&2; echo x > "$out"; exit 3'),
        r"failed to compile them \(fatal error: no such header\)",
    ),
    "is killed": (scripted("kill -9 $$"), r"failed to compile them \(status -9\)"),
}


@pytest.mark.parametrize("kind", COMPILERS)
def test_a_compiler_that_gives_nothing_leaves_the_decoder_to_onnxruntime(
    kind: str,
    quantized_tiny: Bundle,
    tmp_path: Path,
    prepacked_cache: PrepackedCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command, reason = COMPILERS[kind]
    monkeypatch.setenv("CXX", command(tmp_path))
    filled = fill_cache(quantized_tiny, "eight")
    assert re.search(reason, filled.without_kernels)
    assert "\n" not in filled.without_kernels
    assert (filled.built, filled.entry.kernels) == (True, False)
    assert os.listdir(prepacked_cache.folder) == [filled.entry.folder.name]
    assert "decoder.onnx" in filled.entry.files
    with neo_edge.load(quantized_tiny.root, variant="eight", threads=1) as model:
        assert model.generate([1, 2]).token_ids
    again = fill_cache(quantized_tiny, "eight")
    assert (again.built, again.without_kernels) == (False, filled.without_kernels)


def test_without_a_compiler_the_verb_says_so_in_text_and_json(
    quantized_tiny: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, copying: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    prepack = ["prepack", str(quantized_tiny.root), "--variant", "eight"]
    reason = "there is no C++ compiler (c++ or g++ or clang++) to compile them with"
    assert main(prepack) == 0
    assert (
        f"the decoder runs on ONNX Runtime's kernels; neo_edge's own: {reason}\n" in capsys.readouterr().out
    )
    assert main([*prepack, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["built"], report["kernels"], report["without_kernels"]) == (False, False, reason)
    monkeypatch.setenv("CXX", str(copying))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert main([*prepack, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["built"], report["kernels"], report["without_kernels"]) == (True, True, "")
    assert main(prepack) == 0
    assert "the decoder runs on kernels of neo_edge's own" in capsys.readouterr().out
    assert main([*prepack[:2], "--variant", "fp32"]) == 0
    assert "kernels" not in capsys.readouterr().out


def test_without_the_package_onnx_the_reason_holds_the_cure(
    quantized_tiny: Bundle, copying: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(copying))
    monkeypatch.setitem(sys.modules, "onnx", None)
    filled = fill_cache(quantized_tiny, "four")
    assert not filled.entry.kernels
    assert re.search(r"onnx.*pip install.*neo-edge\[calibrate\]", filled.without_kernels)


def test_a_processor_without_the_instructions_is_told_which(
    quantized_tiny: Bundle, copying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_processor("x86_64", INSTRUCTIONS | {"more"})
    with pytest.raises(NoKernels, match="they are written for x86_64, and this is aarch64"):
        require_processor("aarch64", INSTRUCTIONS)
    with pytest.raises(NoKernels, match="they need avx512_vnni, fma, which this processor lacks"):
        require_processor("x86_64", INSTRUCTIONS - {"avx512_vnni", "fma"})
    import onnxruntime

    (tmp_path / "cpuinfo").write_text("model name : older\nflags : fma f16c avx2\n")
    older = surroundings(onnxruntime, tmp_path)
    monkeypatch.setattr(prepacked_key, "surroundings", lambda _: older)
    monkeypatch.setenv("CXX", str(copying))
    filled = fill_cache(quantized_tiny, "eight")
    assert filled.without_kernels == (
        "they need avx512_vnni, avx512bw, avx512dq, avx512f, avx512vl, which this processor lacks"
    )


def test_a_graph_that_is_another_is_left_to_onnxruntime(
    tiny_bundle: Path, tmp_path: Path, copying: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = (LayerRule("*.1.mlp.down_proj", "float"), LayerRule("*", "w8a8-token"))
    bundle = with_variants(tiny_bundle, tmp_path / "kept", Recipe("kept", "", "modern", rules))
    monkeypatch.setenv("CXX", str(copying))
    filled = fill_cache(bundle, "kept")
    assert "layers.1.mlp.down_proj is in float32, for " in filled.without_kernels
    assert not filled.entry.kernels


def test_a_damaged_bundle_is_an_error_and_no_reason(
    quantized_tiny: Bundle, tmp_path: Path, copying: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = neo_edge.bundle.open_bundle(shutil.copytree(quantized_tiny.root, tmp_path / "copy"))
    monkeypatch.setenv("CXX", str(copying))
    graph = decoder_path(copy, "eight")
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(BundleCorruptError, match="is damaged"):
        fill_cache(copy, "eight")


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, folder = tmp_path / "pids", tmp_path / "written"
    folder.mkdir()
    script = f"echo text > \"$TMPDIR/left\"; sleep 300 & echo $$ $! > '{pids}'; wait"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, script)))
    started = time.monotonic()
    with pytest.raises(NoKernels, match=r"compiler took more than 1 s to compile them"):
        compile_library(folder, limit_s=1)
    assert time.monotonic() - started < 60
    assert list(folder.iterdir()) == []
    wait_until(lambda: not any(runs(int(process)) for process in pids.read_text().split()))


def change_panel(name: str) -> Callable[[DecoderLayout, bytearray], None]:
    """Turns the weights of a product's first 16 outputs around, as a wrong order of bytes would."""

    def change(layout: DecoderLayout, data: bytearray) -> None:
        product = layout.products[name]
        first = product.weights_offset
        data[first : first + product.panel_bytes] = data[first : first + product.panel_bytes][::-1]

    return change


def change_vector(name: str, length: int, factor: float) -> Callable[[DecoderLayout, bytearray], None]:
    def change(layout: DecoderLayout, data: bytearray) -> None:
        numbers = np.frombuffer(data, np.float32, length, layout.vectors[name])
        numbers *= np.float32(factor)

    return change


def wrong_corrections(layout: DecoderLayout, data: bytearray) -> None:
    offset = layout.products["layers.1.up_proj"].corrections_offset
    assert offset is not None
    np.frombuffer(data, np.int32, 160, offset)[:] += 20_000


@pytest.mark.parametrize(
    "change",
    [
        *(
            change_panel(name)
            for name in ("layers.0.q_proj", "layers.1.v_proj", "layers.2.down_proj", "lm_head")
        ),
        change_vector("layers.2.input_layernorm", 64, 1.3),
        change_vector("frequency", 16, 0.8),
        wrong_corrections,
    ],
)
def test_packed_weights_that_are_not_the_graphs_are_refused(
    change: Callable[[DecoderLayout, bytearray], None],
    quantized_tiny: Bundle,
    copying: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack, config = build.pack, quantized_tiny.manifest.model.decoder

    def packed_wrongly(weights: DecoderWeights, folder: Path) -> None:
        pack(weights, folder)
        path = folder / "decoder.weights"
        data = bytearray(path.read_bytes())
        change(read_layout(folder, config), data)
        path.write_bytes(data)

    monkeypatch.setattr(build, "pack", packed_wrongly)
    monkeypatch.setenv("CXX", str(copying))
    filled = fill_cache(quantized_tiny, "eight")
    found = re.fullmatch(
        r"their logits differ from the graph's by (\S+) of the standard deviation, and 0\.1 is allowed",
        filled.without_kernels,
    )
    assert found
    assert float(found[1]) > MOST_LOGIT_ERROR
    assert not filled.entry.kernels


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        # Only one row goes this way.
        ("int8.h", "int8_scaled(_mm512_add_epi32(sums[0], sums[1])", "int8_scaled(_mm512_add_epi32(sums[0], sums[0])"),
        ("elementwise.h", "_mm512_fmaddsub_ps", "_mm512_fmsubadd_ps"),
    ],
)  # fmt: skip
def test_a_library_that_computes_something_else_is_refused(
    name: str,
    right: str,
    wrong: str,
    quantized_tiny: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = Path(shutil.copytree(SOURCES, tmp_path / "src"))
    text = (sources / name).read_text()
    assert text.count(right) >= 1
    (sources / name).write_text(text.replace(right, wrong))
    flags = "-std=c++17 -O1 -march=native -fno-math-errno -fPIC -shared -pthread"
    script = f"exec {find_compiler()[0]} {flags} {sources / 'decoder.cpp'} -o $out"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, script)))
    filled = fill_cache(quantized_tiny, "eight")
    assert filled.without_kernels.startswith("their logits differ from the graph's by ")
    assert not filled.entry.kernels
