"""Only tracing and the reference need torch; streaming, lowering and graph passes do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from neo_edge.cli import main


def loaded_packages(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize(
    "module",
    ["lowering", "weights", "layer_window", "translate_portable", "graph_contract", "quantization.quantize"],
)
def test_what_needs_no_trace_loads_no_torch(module: str) -> None:
    loaded = loaded_packages(f"neo_edge_export.{module}")
    assert f"neo_edge_export.{module}".partition(".")[0] in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize("module", ["commands", "quantization.command"])
def test_the_command_is_declared_without_its_heavy_packages(module: str) -> None:
    loaded = loaded_packages(f"neo_edge_export.{module}")
    assert not {"torch", "onnx", "onnx_ir", "onnxruntime"} & loaded


def test_tracing_does_not_need_torchs_own_exporter() -> None:
    code = "import sys, neo_edge_export.trace; print('torch.onnx._internal.exporter._core' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_building_engines_needs_neither_torch_nor_onnx() -> None:
    """A Jetson has TensorRT, and none of these."""
    loaded = loaded_packages("neo_edge_export.tensorrt.engine_builder")
    assert "neo_edge_export" in loaded
    assert not {"torch", "onnx", "onnx_ir", "onnxruntime"} & loaded


@pytest.mark.parametrize(
    ("package", "extra"), [("onnx_ir", "calibrate"), ("onnxruntime", "cpu"), ("safetensors", "calibrate")]
)
def test_quantizing_asks_for_extras_that_bring_no_torch(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["quantize", "x.bundle", "--recipe", "int8"]) == 2
    assert f'pip install "neo-edge[{extra}]"' in capsys.readouterr().err
