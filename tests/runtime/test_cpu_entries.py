"""Prepacked entries with kernels of our own: made where they can be, used by all, never when they are not whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from cpu_machine import NO_KERNELS, runs, wait_until, write_compiler, write_copying_compiler
from killed_prepack import killed_fills
from killing import in_a_fresh_process
from tiny_golden import append_text

from neo_edge.bundle import Bundle
from neo_edge.cli import main
from neo_edge_runtime import Session, prepacked_build
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import build_prepacked, fill_cache

pytestmark = [
    pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS),
    pytest.mark.usefixtures("prepacked_cache", "compiler"),
]

LIBRARY, WEIGHTS, LAYOUT = FILES = ("decoder.so", "decoder.weights", "decoder.json")
KILLS, SEED = 20, 7
# Loads by the mode of the second argument and says with what, and how the weights are mapped.
LOADING = """if True:
    import os, re, sys
    from pathlib import Path
    sys.modules["onnx"] = None
    from neo_edge.bundle import open_bundle
    from neo_edge_runtime import Session
    from neo_edge_runtime.ort_backend import OrtBackend
    import numpy as np
    backend = OrtBackend(open_bundle(sys.argv[1]), "eight", threads=1, prepacked=sys.argv[2])
    backend.new_state(batch=1, capacity=8)
    print(backend.kernels)
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mine = [one for one in maps if one.split("\\n")[0].endswith("decoder.weights")]
    print(len(mine), sum(int(kib) for one in mine for kib in re.findall(r"(?:Anonymous|Private_Dirty): *(\\d+)", one)))
"""


@pytest.fixture
def compiler(kernel_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that gives what was compiled before."""
    path = write_copying_compiler(tmp_path, kernel_library)
    monkeypatch.setenv("CXX", str(path))
    return path


@pytest.fixture
def entry(quantized_tiny: Bundle, prepacked_cache: PrepackedCache, compiler: Path) -> PrepackedVariant:
    assert prepacked_cache.names() == []
    assert compiler.exists()
    return build_prepacked(quantized_tiny, "eight")


def logits(backend: OrtBackend) -> np.ndarray:
    return append_text(Session(backend), [1, 2, 3])


def loaded(bundle: Bundle) -> str:
    """What `auto` computes the decoder with, after some tokens."""
    backend = OrtBackend(bundle, "eight", threads=1)
    assert np.isfinite(logits(backend)).all()
    return backend.kernels


def redescribe(entry: PrepackedVariant) -> None:
    """Makes the description that of the files as they are now."""
    description = entry.folder / "entry.json"
    data = json.loads(description.read_text())
    for name in data["files"]:
        content = (entry.folder / name).read_bytes()
        data["files"][name] = {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}
    description.write_text(json.dumps(data))


def test_an_entry_is_made_once_and_found(quantized_tiny: Bundle, prepacked_cache: PrepackedCache) -> None:
    for variant in ("eight", "four"):
        first, second = fill_cache(quantized_tiny, variant), fill_cache(quantized_tiny, variant)
        assert (first.built, first.entry.kernels, first.without_kernels) == (True, True, "")
        assert not second.built
        assert second.entry.folder == first.entry.folder
        assert {*FILES, "vision.onnx"} <= first.entry.files.keys()
        assert not any(name.startswith("decoder.onnx") for name in first.entry.files)
        assert {path.name for path in first.entry.folder.iterdir()} == {*first.entry.files, "entry.json"}
        backend = OrtBackend(quantized_tiny, variant, threads=1)
        assert backend.kernels in ("AMX", "AVX-512 VNNI")
        plain = OrtBackend(quantized_tiny, variant, threads=1, prepacked="off")
        assert plain.kernels == "ONNX Runtime"
        assert np.abs(logits(backend) - logits(plain)).max() < 1e-4
    assert len(prepacked_cache.names()) == 2


@pytest.mark.usefixtures("entry")
@pytest.mark.parametrize("mode", ["auto", "build"])
def test_what_is_made_needs_no_compiler_and_no_onnx_and_is_mapped_by_all(
    mode: str, quantized_tiny: Bundle
) -> None:
    # PATH stays: without it Python asks whether it runs under another C library.
    environment = {**os.environ, "CXX": "false"}
    line = [sys.executable, "-c", LOADING, str(quantized_tiny.root), mode]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert (done.stderr, done.returncode) == ("", 0)
    kernels, maps = done.stdout.splitlines()
    assert kernels in ("AMX", "AVX-512 VNNI")
    assert maps == "1 0"


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [_truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_damaged_entry_is_not_loaded_and_made_anew(
    name: str,
    damage: Callable[[Path], None],
    entry: PrepackedVariant,
    quantized_tiny: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(entry.folder / name)
    assert loaded(quantized_tiny) == "ONNX Runtime"
    assert f"({name} " in caplog.text
    assert "the bundle is loaded instead" in caplog.text
    assert build_prepacked(quantized_tiny, "eight").files == entry.files


@pytest.mark.parametrize("name", [LIBRARY, LAYOUT])
def test_an_altered_library_is_never_run(
    name: str, entry: PrepackedVariant, quantized_tiny: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    _alter(entry.folder / name)
    assert loaded(quantized_tiny) == "ONNX Runtime"
    assert f"({name} was altered)" in caplog.text


def test_altered_weights_are_found_by_verifying_and_made_anew(
    entry: PrepackedVariant, quantized_tiny: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    _alter(entry.folder / WEIGHTS)
    prepack = ["prepack", str(quantized_tiny.root), "--variant", "eight"]
    assert main(prepack) == 0
    assert "is prepacked already" in capsys.readouterr().out
    assert main(["prepack", "--list", "--verify"]) == 1
    assert "decoder.weights was altered" in capsys.readouterr().out
    assert main([*prepack, "--verify"]) == 0
    assert "prepacked in" in capsys.readouterr().out
    assert main(["prepack", "--list", "--verify"]) == 0


def _no_library(entry: PrepackedVariant) -> None:
    (entry.folder / LIBRARY).write_bytes(b"not ELF" * 100)


def _another_library(entry: PrepackedVariant) -> None:
    import _ctypes

    (entry.folder / LIBRARY).write_bytes(Path(_ctypes.__file__).read_bytes())


def _another_models_layout(entry: PrepackedVariant) -> None:
    text = (entry.folder / LAYOUT).read_text()
    (entry.folder / LAYOUT).write_text(text.replace('"mlp": 160', '"mlp": 176'))


def _shorter_weights(entry: PrepackedVariant) -> None:
    _truncate(entry.folder / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_library, "decoder.so do not load"),
        (_another_library, "decoder.so do not load"),
        (_another_models_layout, "packed weights in .* cannot be used"),
        (_shorter_weights, "packed weights in .* cannot be used"),
    ],
)
def test_files_that_are_what_the_description_says_and_still_no_decoder_are_not_used(
    spoil: Callable[[PrepackedVariant], None],
    said: str,
    entry: PrepackedVariant,
    quantized_tiny: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(entry)
    redescribe(entry)
    assert loaded(quantized_tiny) == "ONNX Runtime"
    assert re.search(f"{said}.*the bundle is loaded instead", caplog.text)


def test_a_cache_that_cannot_be_written_serves(
    entry: PrepackedVariant, quantized_tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", failing)
    monkeypatch.setattr(os, "utime", failing)
    monkeypatch.setattr(Path, "mkdir", failing)
    assert loaded(quantized_tiny) != "ONNX Runtime"
    assert build_prepacked(quantized_tiny, "eight") == entry


def test_a_better_entry_takes_the_place_of_one_without_kernels(
    quantized_tiny: Bundle,
    compiler: Path,
    prepacked_cache: PrepackedCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "missing-compiler")
    plain = fill_cache(quantized_tiny, "eight")
    assert (plain.built, plain.entry.kernels) == (True, False)
    other = build_prepacked(quantized_tiny, "four")
    assert loaded(quantized_tiny) == "ONNX Runtime"
    assert not fill_cache(quantized_tiny, "eight").built
    monkeypatch.setenv("CXX", str(compiler))
    # Loading takes what is there: it would compile each time where kernels are refused.
    assert build_prepacked(quantized_tiny, "eight").folder == plain.entry.folder
    better = fill_cache(quantized_tiny, "eight")
    assert (better.built, better.entry.kernels) == (True, True)
    assert set(prepacked_cache.names()) == {better.entry.folder.name, other.folder.name}
    assert loaded(quantized_tiny) != "ONNX Runtime"


def test_what_another_release_compiled_is_not_used_listed_and_cleared(
    entry: PrepackedVariant,
    quantized_tiny: Bundle,
    capsys: pytest.CaptureFixture[str],
    prepacked_cache: PrepackedCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepacked_build, "sources_digest", lambda: "0" * 64)
        old = build_prepacked(quantized_tiny, "four")
    assert old.kernels
    assert OrtBackend(quantized_tiny, "four", threads=1).kernels == "ONNX Runtime"
    assert main(["prepack", "--list", "--json"]) == 0
    listed = {one["name"]: one["stale"] for one in json.loads(capsys.readouterr().out)}
    assert listed == {old.folder.name: "another release of neo_edge wrote it", entry.folder.name: ""}
    assert main(["prepack", "--clear-stale"]) == 0
    assert prepacked_cache.names() == [entry.folder.name]
    assert main(["prepack", str(quantized_tiny.root), "--clear"]) == 0
    assert prepacked_cache.names() == []


def test_makings_killed_at_random_moments_leave_nothing_that_loads_and_the_next_one_cleans_up(
    quantized_tiny: Bundle, prepacked_cache: PrepackedCache
) -> None:
    left = in_a_fresh_process(killed_fills, quantized_tiny.root, KILLS, SEED, "eight")
    assert len(left) == KILLS
    assert any(entries.partial for entries in left)
    (name,) = os.listdir(prepacked_cache.folder)
    found = prepacked_cache.find(name)
    assert found is not None
    assert found.kernels


def test_an_interrupt_ends_the_compiler_and_all_that_it_started(
    quantized_tiny: Bundle, prepacked_cache: PrepackedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    script = f"sleep 300 & echo $$ $! > '{begun}.new' && mv '{begun}.new' '{begun}'; wait"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, script)))
    line = [sys.executable, "-m", "neo_edge.cli", "prepack", str(quantized_tiny.root), "--variant", "eight"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        wait_until(begun.exists)
        running.send_signal(2)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in said
    wait_until(lambda: not any(runs(int(process)) for process in begun.read_text().split()))
    assert os.listdir(prepacked_cache.folder) == []
