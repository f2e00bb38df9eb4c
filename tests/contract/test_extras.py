from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from neo_edge.errors import MissingExtraError, NeoEdgeError
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
