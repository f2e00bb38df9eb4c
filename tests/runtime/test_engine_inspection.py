"""`neo-edge inspect` of engines: from what was written down at build time, with no plan loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_bundle
from tiny_engines import LIMITS, PLANS, add_engines, engine_key, engine_set

from neo_edge.bundle import open_bundle
from neo_edge.cli import main
from neo_edge.config import load_config
from neo_edge.engines import EngineKey
from neo_edge.errors import BundleError, EngineError
from neo_edge_runtime.engine_inspection import inspect_engine_folder
from neo_edge_runtime.inspection import inspect


def listing(engine: dict[str, Any] | None = None, *, operators: int = 0) -> bytes:
    """What a build writes of an INT8 decoder and its vision graph."""
    decoder = {
        "layers": {"MATRIX_MULTIPLY": 5, "SOFTMAX": 2},
        "output_types": {"HALF": 6, "FLOAT": 1},
        "matrix_products": {"INT8 x INT8": 3, "HALF x HALF": 2},
        "int8_products": 3,
        "attention_operators": operators,
        "softmax_layers": 0 if operators else 2,
    }
    vision = {**decoder, "matrix_products": {"HALF x HALF": 2}, "int8_products": 0, "softmax_layers": 0}
    return json.dumps(
        {
            part: {"plan_bytes": len(PLANS[part]), "network": network, "engine": engine}
            for part, network in (("vision", vision), ("decoder", decoder))
        }
    ).encode()


@pytest.fixture
def root(golden_tiny: Path, tmp_path: Path) -> Path:
    write_bundle(tmp_path / "robot.bundle", load_config(golden_tiny))
    return tmp_path / "robot.bundle"


@pytest.fixture
def key(root: Path) -> EngineKey:
    return engine_key(open_bundle(root))


def test_engines_are_described_with_layers_precisions_attention_and_memory(
    root: Path, key: EngineKey
) -> None:
    bundle = add_engines(root, key, listing())
    (report,) = inspect(root, 64).engines.values()
    decoder = report.plans["decoder"]
    assert (report.key, report.stale) == (key, False)
    assert (decoder.layers, decoder.int8_products, decoder.engine_layers) == (7, 3, None)
    assert decoder.matrix_products == {"INT8 x INT8": 3, "HALF x HALF": 2}
    assert decoder.attention == "plain operators"
    assert report.plans["vision"].attention == "none"
    assert report.plan_bytes == sum(map(len, PLANS.values()))
    shape = bundle.manifest.model.decoder
    per_token = shape.num_layers * shape.num_kv_heads * 3 * shape.head_dim * 4
    assert report.cache_bytes == LIMITS.max_batch * LIMITS.max_context * per_token


def test_a_folder_of_engines_is_described_alone_and_says_that_it_knows_the_network_only(
    root: Path, key: EngineKey, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engines(root, key, listing())
    assert main(["inspect", str(root / "engines" / key.name)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"engines/{key.name} of fp32, for tensorrt-rtx 1.7.1.116 and compute capability 86" in printed
    assert "matrix products 3 INT8 x INT8, 2 HALF x HALF, 3 of them in INT8" in printed
    assert (
        "attention in plain operators, which TensorRT may fuse; the network's layers, not the engine's"
        in printed
    )


def test_what_an_engine_inspector_said_at_build_time_is_counted(
    root: Path, key: EngineKey, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engines(root, key, listing({"Layers": ["a", "b", "c"]}, operators=2))
    assert inspect_engine_folder(root / "engines" / key.name)[key.name].plans["decoder"].engine_layers == 3
    assert main(["inspect", str(root)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "attention as one operator; 3 layers in the engine" in printed


def test_a_folder_is_described_as_json(
    root: Path, key: EngineKey, capsys: pytest.CaptureFixture[str]
) -> None:
    add_engines(root, key, listing())
    assert main(["inspect", str(root / "engines" / key.name), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[key.name]
    assert report["key"]["compute_capability"] == "86"
    assert report["plans"]["decoder"]["int8_products"] == 3


def test_stale_engines_are_said_to_be_so(
    root: Path, key: EngineKey, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = replace(key, graph_digest="0" * 64)
    add_engines(root, foreign, listing())
    assert main(["inspect", str(root / "engines" / foreign.name)]) == 0
    assert "stale, since its variant has changed; not loaded" in capsys.readouterr().out


def test_a_truncated_plan_is_refused(root: Path, key: EngineKey) -> None:
    add_engines(root, key, listing())
    (root / engine_set(key).decoder).write_bytes(PLANS["decoder"][:-1])
    with pytest.raises(EngineError, match="has 107 bytes, the manifest says 108: run neo-edge build"):
        inspect_engine_folder(root / "engines" / key.name)


def test_engines_that_the_manifest_does_not_name_are_refused(root: Path, key: EngineKey) -> None:
    add_engines(root, key, listing())
    (root / "engines" / "stray").mkdir()
    with pytest.raises(
        EngineError, match=f"does not name the engines stray.*it has {key.name}: run neo-edge build"
    ):
        inspect_engine_folder(root / "engines" / "stray")


def test_engines_outside_of_a_bundle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "engines" / "some").mkdir(parents=True)
    with pytest.raises(BundleError, match="holds no bundle.json"):
        inspect_engine_folder(tmp_path / "engines" / "some")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"vision": {}}', listing().replace(b'"layers": {', b'"layers": [{')]
)
def test_a_listing_that_is_not_one_is_refused(root: Path, key: EngineKey, content: bytes) -> None:
    add_engines(root, key, content)
    with pytest.raises(EngineError, match="layers.json cannot be read .*: run neo-edge build --overwrite"):
        inspect_engine_folder(root / "engines" / key.name)
