from __future__ import annotations

from pathlib import Path

import pytest
from calibration_bundle import export_nano, linked_copy


@pytest.fixture(scope="session")
def exported_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: all four float variants of the nano checkpoint."""
    return export_nano(tmp_path_factory.mktemp("calibration") / "nano.bundle")


@pytest.fixture
def nano(exported_nano: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own."""
    return linked_copy(exported_nano, tmp_path / "nano.bundle")
