"""Weights from the prepacked cache: the same numbers as from the bundle, mapped, and found by what they depend on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_golden import append_text

import neo_edge
from neo_edge.bundle import Bundle, open_bundle
from neo_edge.cli import main
from neo_edge.errors import InputError, MemoryBudgetError
from neo_edge.manifest import FileEntry
from neo_edge_runtime import Session, inspection, ort_backend, prepacked_build
from neo_edge_runtime.inspection import inspect
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import build_prepacked
from neo_edge_runtime.prepacked_key import surroundings

VARIANTS = ("fp32", "fp32-portable", "fp16", "fp16-portable")
DATA = "decoder.onnx.data"

pytestmark = pytest.mark.usefixtures("prepacked_cache")


@pytest.fixture(scope="module")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from neo_edge.checkpoint import resolve_checkpoint
    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    target = tmp_path_factory.mktemp("nano") / "bundle"
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, ExportOptions(precisions=("fp32", "fp16")))
    return target


def numbers(backend: OrtBackend) -> Iterator[np.ndarray]:
    """Visual tokens, the logits of every row of a prefill, and those of some steps."""
    random = np.random.default_rng(0)
    patches = random.normal(size=(64, 768)).astype(np.float32)
    yield backend.encode_patches(patches, random.integers(0, 8, (64, 2)).astype(np.int32))
    for size in (1, 7, 300):
        session = Session(backend)
        yield append_text(session, random.integers(0, 300, size).tolist())
        for token in range(4):
            yield session.decode(token).copy()


# The tiny bundle shows the portable profile.
@pytest.mark.parametrize(
    ("which", "variant"), [*(("tiny", name) for name in VARIANTS), ("nano", "fp32"), ("nano", "fp16")]
)
def test_all_numbers_are_those_of_the_bundle_to_the_last_bit(
    which: str, variant: str, tiny_bundle: Path, request: pytest.FixtureRequest
) -> None:
    path = tiny_bundle if which == "tiny" else request.getfixturevalue("nano_bundle")
    opened = open_bundle(path)
    plain = OrtBackend(opened, variant, threads=1, prepacked="off")
    mapped = OrtBackend(opened, variant, threads=1, prepacked="build")
    assert (plain.prepacked, mapped.prepacked) == (False, True)
    pairs = list(zip(numbers(plain), numbers(mapped), strict=True))
    assert len(pairs) == 16
    for expected, found in pairs:
        assert np.array_equal(expected, found)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_mapped_and_not_copied(nano_bundle: Path) -> None:
    code = """if True:
        import re, sys
        from pathlib import Path
        from neo_edge.bundle import open_bundle
        from neo_edge_runtime.ort_backend import OrtBackend
        import onnxruntime
        def private():
            return int(re.search(r"Anonymous: *(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1]) * 1024
        bundle, before = open_bundle(sys.argv[1]), private()
        backend = OrtBackend(bundle, "fp32", threads=1, prepacked=sys.argv[2])
        print(private() - before)
    """
    taken = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", code, nano_bundle, mode], capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("off", "build", "auto")
    }
    weights = (nano_bundle / "fp32" / DATA).stat().st_size
    assert taken["off"] > weights
    assert taken["auto"] < weights / 2  # the rest is of the graph, the allocator and the threads


def test_nothing_is_written_unless_asked(tiny_bundle: Path, prepacked_cache: PrepackedCache) -> None:
    with neo_edge.load(tiny_bundle, threads=1) as model:
        assert not model._backend.prepacked  # type: ignore[attr-defined]
    assert not prepacked_cache.folder.parent.exists()
    with neo_edge.load(tiny_bundle, threads=1, prepacked="build") as model:
        assert model._backend.prepacked  # type: ignore[attr-defined]
    with neo_edge.load(tiny_bundle, threads=1) as model:
        assert model._backend.prepacked  # type: ignore[attr-defined]
    with neo_edge.load(tiny_bundle, threads=1, prepacked="off") as model:
        assert not model._backend.prepacked  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="prepacked is 'yes'; it must be 'auto', 'build', 'off'"):
        neo_edge.load(tiny_bundle, threads=1, prepacked="yes")  # type: ignore[arg-type]


@pytest.mark.usefixtures("prepacked_entry")
def test_a_moved_bundle_finds_its_entry_and_another_variant_does_not(
    opened_bundle: Bundle, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(opened_bundle.root, moved)
    assert OrtBackend(open_bundle(moved), "fp32", threads=1).prepacked
    assert not OrtBackend(open_bundle(moved), "fp16", threads=1).prepacked


def test_files_are_equal_for_any_number_of_threads(
    prepacked_entry: PrepackedVariant, opened_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = prepacked_build.session_options
    asked = []

    def three(ort: ModuleType, threads: int) -> object:
        asked.append(threads)
        return options(ort, 3)

    monkeypatch.setenv("NEO_EDGE_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setattr(prepacked_build, "session_options", three)
    assert build_prepacked(opened_bundle, "fp32").files == prepacked_entry.files
    assert asked


@pytest.mark.usefixtures("prepacked_entry")
@pytest.mark.parametrize("what", ["version", "build", "cpu", "instructions"])
def test_another_onnxruntime_or_processor_does_not_use_it(
    what: str, opened_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from neo_edge_runtime import prepacked_key

    if what == "version":
        monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    elif what == "build":
        monkeypatch.setattr(onnxruntime, "get_build_info", lambda: "my own")
    else:
        name, flags = ("other", "avx2") if what == "cpu" else ("same", "avx2 avx512f")
        (tmp_path / "cpuinfo").write_text(f"model name : {name}\nflags : {flags}\n")
        changed = surroundings(onnxruntime, tmp_path)
        monkeypatch.setattr(prepacked_key, "surroundings", lambda _: changed)
    assert not OrtBackend(opened_bundle, "fp32", threads=1).prepacked


def test_the_processor_is_known_by_its_model_and_its_instruction_sets(tmp_path: Path) -> None:
    import onnxruntime

    (tmp_path / "cpuinfo").write_text("model name : A\nflags : smep fpu fma avx2 amx_int8 sme2\n")
    found = surroundings(onnxruntime, tmp_path)
    assert (found.cpu, found.instructions) == ("A", ("amx_int8", "avx2", "fma", "sme2"))
    assert found.onnxruntime.startswith(onnxruntime.__version__)


@pytest.mark.usefixtures("prepacked_entry")
def test_mapped_weights_need_less_free_memory(opened_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_backend, "available_memory_bytes", lambda: 200_000)
    assert OrtBackend(opened_bundle, "fp32", threads=1).prepacked
    with pytest.raises(MemoryBudgetError, match="the weights of"):
        OrtBackend(opened_bundle, "fp32", threads=1, prepacked="off")
    monkeypatch.setattr(ort_backend, "available_memory_bytes", lambda: 20_000)
    with pytest.raises(MemoryBudgetError, match="the weights of"):
        OrtBackend(opened_bundle, "fp32", threads=1)


def test_inspect_says_which_weights_are_mapped(prepacked_entry: PrepackedVariant, tiny_bundle: Path) -> None:
    variants = inspect(tiny_bundle).variants
    prepacked = variants["fp32"].prepacked
    assert prepacked is not None
    assert prepacked.size_bytes == prepacked_entry.size_bytes
    assert 0 < prepacked.load_bytes < variants["fp32"].size_bytes
    assert variants["fp32"].memory.weights == sum(
        path.stat().st_size for path in (prepacked_entry.vision, prepacked_entry.decoder)
    )
    assert variants["fp32-portable"].prepacked is None


def test_inspect_says_where_a_decoder_has_kernels_of_our_own(
    prepacked_entry: PrepackedVariant,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = inspect(tiny_bundle).variants["fp32"]
    assert before.prepacked is not None
    assert not before.prepacked.kernels
    graph = {name: entry for name, entry in prepacked_entry.files.items() if name.startswith("vision.onnx")}
    mapped = {name: FileEntry(1000, "") for name in ("decoder.so", "decoder.json", "decoder.weights")}
    with_kernels = replace(prepacked_entry, files={**graph, **mapped})
    monkeypatch.setattr(
        inspection, "find_prepacked", lambda _ort, _bundle, name: with_kernels if name == "fp32" else None
    )
    report = inspect(tiny_bundle).variants["fp32"]
    assert report.prepacked is not None
    assert report.prepacked.kernels
    assert report.prepacked.size_bytes == with_kernels.graph_bytes + 3000
    assert 0 < report.prepacked.load_bytes <= with_kernels.graph_bytes // 2
    assert report.memory.weights == graph["vision.onnx"].size_bytes
    assert report.memory.scratch < before.memory.scratch
    assert main(["inspect", str(tiny_bundle)]) == 0
    assert "its decoder runs on kernels of neo_edge's own" in " ".join(capsys.readouterr().out.split())


def test_using_an_entry_is_remembered(
    prepacked_entry: PrepackedVariant, opened_bundle: Bundle, prepacked_cache: PrepackedCache
) -> None:
    os.utime(prepacked_entry.folder / "entry.json", (1e9, 1e9))
    assert OrtBackend(opened_bundle, "fp32", threads=1).prepacked
    found = prepacked_cache.find(prepacked_entry.folder.name)
    assert found is not None
    assert found.last_used_s > 1.5e9
