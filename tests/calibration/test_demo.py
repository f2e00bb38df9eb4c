"""The demonstration where it cannot export."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neo_edge.cli import main


def test_without_torch_there_is_the_pip_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert 'pip install "neo-edge[export]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
