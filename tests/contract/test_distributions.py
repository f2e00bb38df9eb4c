"""What a wheel and a source distribution hold, without building one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hatchling.builders.plugin.interface import BuilderInterface
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
SOURCES = "neo_edge_runtime/cpu/src"


def held(builder: type[BuilderInterface]) -> set[str]:
    return {file.distribution_path for file in builder(str(ROOT)).recurse_included_files()}


@pytest.mark.parametrize(("builder", "folder"), [(WheelBuilder, ""), (SdistBuilder, "runtime/")])
def test_distributions_hold_the_kernels_sources(builder: type[BuilderInterface], folder: str) -> None:
    there = {path.name for path in (ROOT / "runtime" / SOURCES).iterdir()}
    assert {"decoder.cpp", "decoder.h", "int8.h"} <= there
    assert {
        path.rpartition("/")[2] for path in held(builder) if path.startswith(f"{folder}{SOURCES}/")
    } == there


def test_a_wheel_holds_packages_and_what_they_read_and_no_tests() -> None:
    found = held(WheelBuilder)
    assert {"neo_edge/py.typed", "neo_edge/checkpoints/neo-ov-nano/model.safetensors"} <= found
    assert {path.partition("/")[0] for path in found} == {
        *("neo_edge", "neo_edge_runtime", "neo_edge_export", "neo_edge_calibration", "optimum")
    }
    assert not [path for path in found if path.endswith((".so", ".o", ".pyc"))]
