"""One written export of the tiny golden checkpoint, shared by all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.checkpoint import Checkpoint, open_checkpoint
from neo_edge_export.bundle_export import ExportOptions, export_bundle

VARIANTS = ("fp32", "fp32-portable", "fp16", "fp16-portable")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(golden_tiny: Path) -> Checkpoint:
    return open_checkpoint(golden_tiny)


@pytest.fixture(scope="session")
def tiny_bundle(golden_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All four variants."""
    target = tmp_path_factory.mktemp("export") / "tiny.bundle"
    options = ExportOptions(precisions=("fp32", "fp16"), ops=("modern", "portable"))
    export_bundle(golden_tiny, target, options)
    return open_bundle(target, verify="sha256")
