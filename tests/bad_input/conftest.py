from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from byte_tokenizer import write_byte_tokenizer

from neo_edge_export.bundle_export import ExportOptions, export_bundle


@pytest.fixture(scope="session")
def checkpoint(golden_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny golden checkpoint with a tokenizer."""
    folder = tmp_path_factory.mktemp("bad_input") / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(golden_tiny / name, folder / name)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    """Its bundle."""
    import torch

    torch.set_num_threads(1)
    target = checkpoint.parent / "whole.bundle"
    export_bundle(checkpoint, target, ExportOptions())
    return target


@pytest.fixture(scope="session")
def quantized(bundle: Path) -> Path:
    """The same with the variant `eight`."""
    from quantized_decoders import EIGHT_BITS, with_variants

    return with_variants(bundle, bundle.with_name("quantized.bundle"), EIGHT_BITS).root
