"""`neo-edge export` as a user calls it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_checkpoint import golden_tensors, write_checkpoint

from neo_edge.bundle import verify_bundle
from neo_edge.cli import main


def test_it_prints_the_largest_differences(
    golden_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(golden_tiny), "-o", str(tmp_path / "out"), "--ops", "portable"]) == 0
    printed = capsys.readouterr()
    for kind in ("visual tokens", "whole prefill", "chunked prefill", "decode"):
        assert f"fp32-portable  {kind}" in printed.out
    assert f"wrote {tmp_path / 'out'}" in printed.out
    assert "tracing" in printed.err
    verify_bundle(tmp_path / "out")


def test_json_is_all_that_stands_on_standard_output(
    golden_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(golden_tiny), "-o", str(tmp_path / "out"), "--verify-layers", "2", "--json"]
    assert main([*arguments, "--verify-slice", "0:2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["verification"]["fp32"]["layers"] == [0, 2]
    assert printed["verification"]["fp32"]["layers_at_once"] == 2
    assert printed["verification"]["fp32"]["checks"]["decode"]["largest"] < 1e-4


def test_a_failed_export_exits_1_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = golden_tensors()
    tensors["language_model.lm_head.weight"][0, 0] = 1e6
    folder = write_checkpoint(tmp_path / "checkpoint", tensors)
    assert main(["export", str(folder), "-o", str(tmp_path / "out"), "--precision", "fp16"]) == 1
    assert "error: the weight lm_head.weight reaches 1e+06" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--precision", "int3"], "invalid choice: 'int3'"),
        (["--verify-layers", "0"], "'0' is no whole number from 1 on"),
        (["--verify-layers", "many"], "'many' is no whole number from 1 on"),
        (["--verify-slice", "2"], "'2' is no slice of layers, such as 0:2"),
    ],
)
def test_wrong_arguments_exit_2_and_say_what_is_right(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["export", "somewhere", "-o", str(tmp_path / "out"), *wrong])
    assert raised.value.code == 2
    assert f"argument {wrong[0]}: {message}" in capsys.readouterr().err


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    # Twenty-four graphs to compare: a second or more of work after the weights are written.
    folder = write_checkpoint(tmp_path / "checkpoint", num_hidden_layers=6)
    arguments = [str(folder), "-o", str(tmp_path / "out"), "--verify-layers", "1"]
    arguments += ["--precision", "fp32", "--precision", "fp16", "--ops", "modern", "--ops", "portable"]
    command = [sys.executable, "-c", "import sys; from neo_edge.cli import main; sys.exit(main())", "export"]
    for _ in range(5):
        with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any(line.startswith("writing weights") for line in process.stderr)
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        if process.returncode != 0:
            break
        shutil.rmtree(tmp_path / "out")  # it was done before, or Python dropped what fell into a destructor
    assert process.returncode == 130, rest
    assert rest.endswith("interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
