"""The demonstration where it cannot export, or is not let to."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neo_edge.bundle import verify_bundle
from neo_edge.cli import main


def test_without_torch_there_is_the_pip_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert 'pip install "neo-edge[export]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_its_folder_should_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert "out cannot be made a folder ([Errno 17]" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_ctrl_c_during_its_export_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = [sys.executable, "-m", "neo_edge.cli", "demo", "--out", str(out)]
    for _ in range(5):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            # Not before the export has a folder to clear up.
            while child.poll() is None and not (out.is_dir() and list(out.iterdir())):
                time.sleep(0.005)
            child.send_signal(signal.SIGINT)  # to the demo alone, as a supervisor does it
            _, said = child.communicate()
        assert child.returncode == 130, said
        assert "Traceback" not in said
        left = list(out.iterdir())
        if not left:
            break
        (bundle,) = left  # the export was done before, or Python dropped what fell into a destructor
        verify_bundle(bundle)
        shutil.rmtree(bundle)
    assert left == []
