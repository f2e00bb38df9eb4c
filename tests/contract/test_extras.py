from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from neo_edge.errors import BrokenPackageError, MissingExtraError, NeoEdgeError
from neo_edge.extras import require


def test_an_installed_module_is_handed_out() -> None:
    assert require("json", extra="cpu") is json


def test_a_missing_package_is_named_with_its_pip_line() -> None:
    with pytest.raises(MissingExtraError, match=r'no_such_package.*pip install "neo-edge\[gpu\]"') as caught:
        require("no_such_package.part", extra="gpu")
    assert (caught.value.package, caught.value.extra) == ("no_such_package", "gpu")
    assert isinstance(caught.value, NeoEdgeError)


def test_a_package_that_misses_one_of_its_own_names_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import its_dependency")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(MissingExtraError) as caught:
        require("half_installed", extra="export")
    assert caught.value.package == "its_dependency"


def test_a_package_whose_library_does_not_load_is_named_with_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(BrokenPackageError, match="'broken_library'.*GLIBC_2.99.*--force-reinstall") as caught:
        require("broken_library", extra="cpu")
    assert (caught.value.package, caught.value.extra) == ("broken_library", "cpu")


def test_an_interrupt_while_a_compiled_module_starts_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_start.py").write_text(
        "raise ImportError('initialization failed') from KeyboardInterrupt()"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(KeyboardInterrupt):
        require("slow_start", extra="cpu")
