"""Broken compilers, and broken prepacked entries with kernels of our own: ONNX Runtime's kernels answer."""

from __future__ import annotations

import atexit
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import NoReturn

import pytest
from bad_row import Action, Place, Row
from cpu_machine import NO_KERNELS, write_compiler, write_copying_compiler

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.options import SamplingOptions
from neo_edge_runtime.cpu.compiling import compile_library
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import PrepackedMode, build_prepacked

LIBRARY, WEIGHTS, LAYOUT = "decoder.so", "decoder.weights", "decoder.json"


@cache
def library() -> Path:
    """Compiled once."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return compile_library(folder)


def compiled(broken: str, command: Callable[[Place], str]) -> Row:
    """A compiler that gives nothing of use, asked while the cache is filled."""

    def prepare(place: Place) -> Action:
        place.patch.setenv("NEO_EDGE_CACHE_DIR", str(place.folder / "cache"))
        place.patch.setenv("CXX", command(place))
        build_prepacked(open_bundle(place.quantized), "eight")
        return lambda: _computed(place, "build")

    return Row(
        f"{broken}: the graph is prepacked", prepare, None, gives=lambda kernels: kernels == "ONNX Runtime"
    )


def filled(broken: str, spoil: Callable[[Place, PrepackedVariant], object], *, uses: bool = False) -> Row:
    """An entry with kernels, spoilt; the model answers without it, or (`uses`) with it."""

    def prepare(place: Place) -> Action:
        if NO_KERNELS:
            pytest.skip(NO_KERNELS)
        place.patch.setenv("NEO_EDGE_CACHE_DIR", str(place.folder / "cache"))
        place.patch.setenv("CXX", str(write_copying_compiler(place.folder, library())))
        spoil(place, build_prepacked(open_bundle(place.quantized), "eight"))
        return lambda: _computed(place, "auto")

    return Row(broken, prepare, None, gives=lambda kernels: (kernels != "ONNX Runtime") is uses)


def _computed(place: Place, mode: PrepackedMode) -> str:
    """What the decoder ran on, after an answer."""
    with neo_edge.load(place.quantized, variant="eight", threads=1, prepacked=mode) as model:
        assert model.generate("a", options=SamplingOptions(max_new_tokens=2)).token_ids
        assert isinstance(model._backend, OrtBackend)
        return model._backend.kernels


def _cut(name: str) -> Callable[[Place, PrepackedVariant], object]:
    def cut(_: Place, entry: PrepackedVariant) -> None:
        with (entry.folder / name).open("r+b") as file:
            file.truncate(100)

    return cut


def _altered(_: Place, entry: PrepackedVariant) -> None:
    data = bytearray((entry.folder / LIBRARY).read_bytes())
    data[len(data) // 2] ^= 1
    (entry.folder / LIBRARY).write_bytes(data)


def _unwritable(place: Place, _: PrepackedVariant) -> None:
    def failing(*_: object, **__: object) -> NoReturn:
        raise OSError(30, "Read-only file system")

    place.patch.setattr("os.utime", failing)
    place.patch.setattr("tempfile.mkdtemp", failing)


def _without_tools(place: Place, _: PrepackedVariant) -> None:
    place.patch.setenv("CXX", "missing-compiler")
    place.patch.setitem(sys.modules, "onnx", None)


def _others(_: Place, entry: PrepackedVariant) -> None:
    (entry.folder / LIBRARY).chmod(0o666)


def _removed(_: Place, entry: PrepackedVariant) -> None:
    PrepackedCache().remove(entry.folder.name)


KERNEL_ROWS = (
    compiled("no C++ compiler", lambda _: "missing-compiler"),
    compiled("half a quote in CXX", lambda _: "'g++"),
    compiled("a compiler that fails", lambda _: "false"),
    compiled("a compiler that writes nothing", lambda place: str(write_compiler(place.folder, ":"))),
    compiled(
        "a compiler that writes text",
        lambda place: str(write_compiler(place.folder, 'echo text > "$out"')),
    ),
    filled("a truncated library: the bundle is loaded", _cut(LIBRARY)),
    filled("truncated packed weights: the bundle is loaded", _cut(WEIGHTS)),
    filled("a truncated layout: the bundle is loaded", _cut(LAYOUT)),
    filled("a missing library: the bundle is loaded", lambda _, entry: (entry.folder / LIBRARY).unlink()),
    filled("an altered library: the bundle is loaded", _altered),
    filled("a library that everybody writes to: the bundle is loaded", _others),
    filled("an entry that was removed: the bundle is loaded", _removed),
    filled("an entry in a cache that cannot be written: it is used", _unwritable, uses=True),
    filled("an entry where nothing could make it any more: it is used", _without_tools, uses=True),
)
