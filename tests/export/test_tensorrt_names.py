"""Every name of TensorRT that building and running touch exists in all TensorRTs that they are for.

`tensorrt_interfaces.json` holds the public names of classes that matter here, read from the bindings of each version.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest

from neo_edge_export import tensorrt
from neo_edge_export.tensorrt import builder_api, installed
from neo_edge_runtime import tensorrt as running
from neo_edge_runtime.tensorrt import installed as installed_to_run
from neo_edge_runtime.tensorrt import runtime_api, trt_engine

INTERFACES: dict[str, dict[str, set[str]]] = {
    name: {kind: set(members.split()) for kind, members in interface["classes"].items()}
    for name, interface in json.loads(
        Path(__file__).with_name("tensorrt_interfaces.json").read_text(encoding="utf-8")
    ).items()
}
RTX = "rtx-1.7.1"
RUNNING_RTX_ONLY = {
    "RtxEngine": "ICudaEngine",
    "RtxKernelSpecialization": "DynamicShapesKernelSpecializationStrategy",
    "RtxRuntimeCache": "IRuntimeCache",
    "RtxRuntimeConfig": "IRuntimeConfig",
}
RTX_ONLY = {
    "AheadOfTimeConfig": "IBuilderConfig",
    "AheadOfTimeFlag": "BuilderFlag",
    "ComputeCapability": "ComputeCapability",
}
BASES = {"Named"}  # ours
PYTHON = {"__members__"}  # every enumeration of pybind11 has it


def protocols(api: ModuleType = builder_api) -> dict[str, type]:
    """The classes of an api file, which have TensorRT's names."""
    return {
        name: value
        for name, value in vars(api).items()
        if isinstance(value, type) and value.__module__ == api.__name__ and name not in BASES
    }


def members(protocol: type) -> set[str]:
    """What of a class is used."""
    found = {*vars(protocol), *vars(protocol).get("__annotations__", {})}
    return {name for name in found if not name.startswith("_")} | (found & PYTHON)


def missing(kind: str, protocol: type, interface: dict[str, set[str]]) -> Iterator[str]:
    if kind not in interface:
        yield kind
        return
    yield from (f"{kind}.{name}" for name in sorted(members(protocol) - interface[kind] - PYTHON))


@pytest.mark.parametrize("version", ["10.3", "10.13", "10.16", "11.4", RTX])
def test_every_name_that_the_build_touches_is_in_this_tensorrt(version: str) -> None:
    checked = {kind: protocol for kind, protocol in protocols().items() if kind not in RTX_ONLY}
    assert len(checked) > 15
    interface = INTERFACES[version]
    assert [name for kind, protocol in checked.items() for name in missing(kind, protocol, interface)] == []


@pytest.mark.parametrize("version", ["10.3", "10.13", "10.16", "11.4", RTX])
def test_every_name_that_running_touches_is_in_this_tensorrt(version: str) -> None:
    interface = INTERFACES[version]
    checked = {
        kind: protocol for kind, protocol in protocols(runtime_api).items() if kind not in RUNNING_RTX_ONLY
    }
    assert {"ICudaEngine", "IExecutionContext", "Runtime"} <= checked.keys()
    assert [name for kind, protocol in checked.items() for name in missing(kind, protocol, interface)] == []
    asked = members(installed_to_run.TensorRT)
    assert "Runtime" in asked
    assert asked - interface.keys() == set()


def test_the_members_of_enumerations_that_running_compares_with_are_there() -> None:
    for interface in INTERFACES.values():
        assert {"INPUT", "OUTPUT"} <= interface["TensorIOMode"]
        assert {"DEVICE", "HOST"} <= interface["TensorLocation"]
        assert trt_engine.TYPES.keys() <= interface["DataType"]


def test_what_is_touched_of_tensorrt_rtx_alone_is_in_it() -> None:
    for name, kind in RTX_ONLY.items():
        assert list(missing(kind, protocols()[name], INTERFACES[RTX])) == []
        assert members(protocols()[name])
    for name, kind in RUNNING_RTX_ONLY.items():
        assert list(missing(kind, protocols(runtime_api)[name], INTERFACES[RTX])) == []
    assert members(installed_to_run.TensorRTRTX) - INTERFACES[RTX].keys() == set()


@pytest.mark.parametrize("version", ["10.3", "10.13", "10.16", "11.4", RTX])
def test_every_class_that_the_module_is_asked_for_is_in_this_tensorrt(version: str) -> None:
    asked = members(installed.TensorRT)
    assert "OnnxParser" in asked
    assert asked - INTERFACES[version].keys() == set()


def test_a_name_that_a_version_lacks_is_found() -> None:
    class OnnxParser(Protocol):
        def parse_from_file(self, model: str) -> bool: ...
        def supports_model(self, model: bytes) -> bool: ...

    class BuilderFlag(Protocol):
        FP16: object

    lacking = {
        version: [*missing("OnnxParser", OnnxParser, names), *missing("BuilderFlag", BuilderFlag, names)]
        for version, names in INTERFACES.items()
    }
    assert lacking["10.3"] == []
    assert lacking["11.4"] == lacking[RTX] == ["OnnxParser.supports_model", "BuilderFlag.FP16"]
    assert list(missing("IInt8EntropyCalibrator2", OnnxParser, INTERFACES["11.4"])) == [
        "IInt8EntropyCalibrator2"
    ]


def test_tensorrt_is_reached_through_the_listed_names_only() -> None:
    """No file imports it, and none goes round the type checker, which holds the code to the protocols."""
    files = sorted(Path(tensorrt.__file__).parent.glob("*.py"))
    ours = [
        Path(running.__file__).with_name(f"{name}.py")
        for name in ("runtime_api", "trt_engine", "tensorrt_log", "installed")
    ]
    assert len(files) > 10
    for path in [*files, *ours]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                )
                assert not [name for name in modules if name.startswith("tensorrt")], path.name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("getattr", "setattr"), path.name
            if isinstance(node, ast.Name):
                assert node.id != "Any", path.name
