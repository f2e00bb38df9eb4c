"""One bundle of the nano checkpoint for all samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_edge.checkpoint import resolve_checkpoint


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    target = tmp_path_factory.mktemp("nano") / "nano.bundle"
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, ExportOptions(precisions=("fp32",)))
    return target
