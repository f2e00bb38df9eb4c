from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from byte_tokenizer import write_byte_tokenizer
from numpy_backend import NumpyBackend
from tensorrt_bundle import Fakes, add_engines, engine_key
from tiny_golden import CASES, GOLDEN, Golden, read_golden

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.tokenizer import Tokenizer, load_tokenizer
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant
from neo_edge_runtime.prepacked_build import build_prepacked


@pytest.fixture
def backend() -> NumpyBackend:
    return NumpyBackend(GOLDEN)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(directory)
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


@pytest.fixture
def prepacked_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepackedCache:
    """An empty one of the test's own."""
    monkeypatch.setenv("NEO_EDGE_CACHE_DIR", str(tmp_path / "cache"))
    return PrepackedCache()


@pytest.fixture
def opened_bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture
def prepacked_entry(prepacked_cache: PrepackedCache, opened_bundle: Bundle) -> PrepackedVariant:
    """Of the tiny bundle's variant fp32."""
    assert prepacked_cache.names() == []
    return build_prepacked(opened_bundle, "fp32")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden tiny checkpoint, given a tokenizer, in all four variants; exported once."""
    import torch

    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    torch.set_num_threads(1)
    checkpoint = tmp_path_factory.mktemp("checkpoints")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, checkpoint / name)
    write_byte_tokenizer(checkpoint)
    target = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(checkpoint, target, ExportOptions(precisions=("fp32", "fp16"), ops=("modern", "portable")))
    return target


@pytest.fixture(scope="session")
def quantized_tiny(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with the variants `eight`, `four` and `four everywhere`; the last has its head in 4 bits, too."""
    from quantized_decoders import EIGHT_BITS, FOUR_BITS, FOUR_EVERYWHERE, with_variants

    target = tmp_path_factory.mktemp("quantized") / "tiny"
    return with_variants(tiny_bundle, target, EIGHT_BITS, FOUR_BITS, FOUR_EVERYWHERE)


@pytest.fixture(scope="session")
def quantized_nano(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nano with the variants fp32, int8-dynamic and int4."""
    from quantized_decoders import with_variants

    from neo_edge.checkpoint import resolve_checkpoint
    from neo_edge_export.bundle_export import ExportOptions, export_bundle
    from neo_edge_export.quantization.recipes import RECIPES

    folder = tmp_path_factory.mktemp("nano")
    export_bundle(resolve_checkpoint("neo-ov-nano"), folder / "float", ExportOptions(verify_slice=range(1)))
    return with_variants(folder / "float", folder / "nano", RECIPES["int8-dynamic"], RECIPES["int4"])


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels, compiled for this machine once."""
    from cpu_machine import NO_KERNELS

    from neo_edge_runtime.cpu.compiling import compile_library

    if NO_KERNELS:
        pytest.skip(NO_KERNELS)
    return compile_library(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def engine_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with engines of both portable variants; those of fp32 are taken where none is named."""
    root = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engines") / "tiny"))
    for variant in ("fp32-portable", "fp16-portable"):
        add_engines(root, engine_key(open_bundle(root), variant))
    return open_bundle(root)


@pytest.fixture
def fakes(engine_bundle: Bundle) -> Fakes:
    return Fakes(engine_bundle)
