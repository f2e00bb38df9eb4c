from __future__ import annotations

import subprocess
import sys

import pytest

import neo_edge
import neo_edge_runtime
from neo_edge.errors import NeoEdgeError
from neo_edge.options import SamplingOptions


def in_fresh_interpreter(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_public_names_are_these() -> None:
    assert sorted(neo_edge.__all__) == [
        "Box",
        "Choices",
        "Completion",
        "CoordinateScale",
        "Frame",
        "FrameSampling",
        "JsonSchema",
        "LiveFeed",
        "Model",
        "NeoEdgeError",
        "Point",
        "Reconnect",
        "Regex",
        "Request",
        "SamplingOptions",
        "Video",
        "VideoLimits",
        "__version__",
        "errors",
        "load",
        "open_source",
        "parse_boxes",
        "parse_choice",
        "parse_number",
        "parse_points",
        "read_video",
    ]
    assert dir(neo_edge) == sorted(neo_edge.__all__)


def test_public_names_are_handed_on_from_where_they_live() -> None:
    assert neo_edge.SamplingOptions is SamplingOptions
    assert neo_edge.NeoEdgeError is NeoEdgeError
    assert neo_edge.errors.NeoEdgeError is NeoEdgeError
    for name in (
        "Box",
        "Choices",
        "Completion",
        "CoordinateScale",
        "Frame",
        "JsonSchema",
        "Model",
        "Point",
        "Regex",
        "Request",
        "Video",
        "VideoLimits",
        "load",
        "parse_boxes",
        "parse_choice",
        "parse_number",
        "parse_points",
        "read_video",
    ):
        assert getattr(neo_edge, name) is getattr(neo_edge_runtime, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        neo_edge.lod  # noqa: B018


def test_all_errors_are_one_tree() -> None:
    found = [value for value in vars(neo_edge.errors).values() if isinstance(value, type)]
    assert len(found) > 15
    assert all(issubclass(error, NeoEdgeError) for error in found)


def test_importing_neo_edge_imports_no_stage_and_nothing_heavy() -> None:
    loaded = in_fresh_interpreter("import neo_edge, sys; print(' '.join(sorted(sys.modules)))").split()
    assert [
        name for name in loaded if name.split(".")[0] in {"numpy", "tokenizers", "PIL", "onnxruntime"}
    ] == []
    assert [name for name in loaded if name.startswith("neo_edge_")] == []


def test_the_runtime_runs_without_torch_and_onnx() -> None:
    code = "import neo_edge, neo_edge_runtime, sys; neo_edge.load; print(' '.join(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in in_fresh_interpreter(code).split()}
    assert "neo_edge_runtime" in loaded
    assert loaded.isdisjoint(
        {"torch", "onnx", "onnxscript", "onnx_ir", "neo_edge_export", "neo_edge_calibration"}
    )
