"""Engines in a bundle: found by their key, and handed out only when they are what the manifest names."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_bundle
from tiny_engines import LIMITS, PLANS, add_engines, engine_key, engine_set

from neo_edge.bundle import Bundle, open_bundle, verify_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.config import load_config
from neo_edge.engine_files import engine_faults, find_engines, graph_digest, is_stale, read_plan
from neo_edge.engines import EngineKey, EngineLimits
from neo_edge.errors import BundleCorruptError, EngineError, InputError
from neo_edge.manifest import parse_manifest


@pytest.fixture
def root(golden_tiny: Path, tmp_path: Path) -> Path:
    write_bundle(tmp_path / "robot.bundle", load_config(golden_tiny))
    return tmp_path / "robot.bundle"


@pytest.fixture
def key(root: Path) -> EngineKey:
    return engine_key(open_bundle(root))


@pytest.fixture
def built(root: Path, key: EngineKey) -> Bundle:
    return add_engines(root, key)


def other_values(key: EngineKey) -> dict[str, EngineKey]:
    """The key with each of its fields in turn another one."""
    return {
        "backend": replace(key, backend="tensorrt"),
        "version": replace(key, version="1.7.1.117"),
        "compute_capability": replace(key, compute_capability="89"),
        "variant": replace(key, variant="fp16"),
        "graph_digest": replace(key, graph_digest="0" * 64),
        "limits": replace(key, limits=replace(LIMITS, max_context=65)),
        "driver": replace(key, driver="580.1"),
        "workspace_bytes": replace(key, workspace_bytes=1 << 30),
    }


def test_engines_are_found_again_by_their_key_and_verified_with_the_bundle(
    built: Bundle, key: EngineKey
) -> None:
    again = verify_bundle(built.root)
    engines = find_engines(again.manifest, key)
    assert engines == engine_set(key)
    assert engine_faults(again, engines) == []
    for part in ("vision", "decoder"):
        with read_plan(again, engines, part, wanted=key) as plan:
            assert plan[:] == PLANS[part]


def test_a_bundle_without_engines_reads_and_writes_as_before(root: Path) -> None:
    text = (root / "bundle.json").read_text()
    assert "engines" not in json.loads(text)
    assert parse_manifest(text).to_json() == text


def test_a_manifest_with_engines_reads_back_equal(built: Bundle) -> None:
    assert parse_manifest(built.manifest.to_json()) == built.manifest
    with_cache = {
        name: replace(engines, timing_cache=engines.layers, key=replace(engines.key, driver="580.1"))
        for name, engines in built.manifest.engines.items()
    }
    changed = replace(built.manifest, engines=with_cache)
    assert parse_manifest(changed.to_json()) == changed


def test_a_key_that_says_nothing_of_a_workspace_had_no_limit(built: Bundle, key: EngineKey) -> None:
    raw = json.loads(built.manifest.to_json())
    for engines in raw["engines"].values():
        assert engines["key"].pop("workspace_bytes") is None
    assert parse_manifest(json.dumps(raw)) == built.manifest
    limited = {"any": replace(engine_set(key), key=replace(key, workspace_bytes=1 << 30))}
    changed = replace(built.manifest, engines=limited)
    assert parse_manifest(changed.to_json()) == changed


def test_every_field_of_the_key_changes_the_folders_name(key: EngineKey) -> None:
    others = other_values(key)
    assert others.keys() == {field.name for field in fields(EngineKey)}
    assert len({key.name, *(other.name for other in others.values())}) == 1 + len(others)
    assert key.name.startswith("tensorrt-rtx-1.7.1.116-sm86-")


def test_engines_of_another_key_are_not_found(built: Bundle, key: EngineKey) -> None:
    assert [name for name, other in other_values(key).items() if find_engines(built.manifest, other)] == []


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("backend", "backend tensorrt-rtx instead of tensorrt:"),
        ("version", "version 1.7.1.116 instead of 1.7.1.117:"),
        ("compute_capability", "compute capability 86 instead of 89:"),
        ("variant", "variant fp32 instead of fp16:"),
        ("limits", "max context 64 instead of 65:"),
    ],
)
def test_a_plan_for_something_else_is_refused_with_what_differs(
    built: Bundle, key: EngineKey, field: str, message: str
) -> None:
    with pytest.raises(EngineError, match=f"built for {message} run  neo-edge build"):
        read_plan(built, engine_set(key), "decoder", wanted=other_values(key)[field])


def test_engines_built_ahead_of_time_serve_every_driver(built: Bundle, key: EngineKey) -> None:
    with read_plan(built, engine_set(key), "decoder", wanted=replace(key, driver="580.1")) as plan:
        assert len(plan) == len(PLANS["decoder"])


def test_engines_timed_under_another_driver_are_refused(root: Path, key: EngineKey) -> None:
    timed = replace(key, driver="570.9")
    bundle = add_engines(root, timed)
    with pytest.raises(EngineError, match="driver 570.9 instead of 580.1"):
        read_plan(bundle, engine_set(timed), "decoder", wanted=replace(key, driver="580.1"))


def test_engines_that_the_manifest_does_not_name_are_refused(
    root: Path, built: Bundle, key: EngineKey
) -> None:
    with BundleUpdate(built) as update:
        without = update.commit(lambda manifest: replace(manifest, engines={}))
    assert not (root / "engines").exists()
    (root / "engines" / key.name).mkdir(parents=True)
    (root / "engines" / key.name / "decoder.plan").write_bytes(PLANS["decoder"])
    with pytest.raises(EngineError, match="does not name these engines"):
        read_plan(without, engine_set(key), "decoder", wanted=key)


def test_engines_of_another_bundle_are_refused(root: Path, built: Bundle, key: EngineKey) -> None:
    """The folder and its manifest entry were copied from a bundle with other graphs."""
    foreign = replace(key, graph_digest=graph_digest(built.manifest, built.variant("fp32"))[::-1])
    bundle = add_engines(root, foreign)
    assert is_stale(bundle.manifest, engine_set(foreign))
    with pytest.raises(EngineError, match="from another bundle, or from graphs that have changed"):
        read_plan(bundle, engine_set(foreign), "decoder", wanted=foreign)


def test_engines_are_stale_when_their_variants_weights_change(built: Bundle, key: EngineKey) -> None:
    assert not is_stale(built.manifest, engine_set(key))
    weights = replace(built.manifest.files["fp32/decoder.onnx.data"], sha256="ab" * 32)
    changed = replace(built.manifest, files={**built.manifest.files, "fp32/decoder.onnx.data": weights})
    assert is_stale(changed, engine_set(key))
    assert is_stale(replace(built.manifest, variants={}), engine_set(key))


def test_the_token_table_is_no_part_of_an_engine(built: Bundle) -> None:
    variant = built.variant("fp32")
    table = replace(built.manifest.files[variant.token_embedding.file], sha256="cd" * 32)
    changed = replace(built.manifest, files={**built.manifest.files, variant.token_embedding.file: table})
    assert graph_digest(changed, variant) == graph_digest(built.manifest, variant)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLANS["decoder"][:-1], "has 107 bytes, the manifest says 108"),
        (b"", "cannot be read"),
        (PLANS["decoder"][:-1] + b"!", "was altered"),
    ],
)
def test_a_plan_that_is_truncated_empty_or_altered_is_refused(
    root: Path, built: Bundle, key: EngineKey, content: bytes, message: str
) -> None:
    (root / engine_set(key).decoder).write_bytes(content)
    with pytest.raises(EngineError, match=message):
        read_plan(built, engine_set(key), "decoder", wanted=key)
    assert len(engine_faults(built, engine_set(key))) == 1


def test_a_missing_plan_is_refused_and_opening_says_how_to_make_it_anew(
    root: Path, built: Bundle, key: EngineKey
) -> None:
    (root / engine_set(key).decoder).unlink()
    with pytest.raises(EngineError, match="cannot be read"):
        read_plan(built, engine_set(key), "decoder", wanted=key)
    with pytest.raises(BundleCorruptError, match=r"decoder.plan is missing. Run neo-edge build on it"):
        open_bundle(root)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("key", "backend"), "openvino", "key.backend is 'openvino'; tensorrt or tensorrt-rtx is needed"),
        (("key", "limits", "max_chunk"), 0, "max_chunk is 0; it must be 1 or above"),
        (("key", "limits", "max_context"), 8, "a chunk must fit into the context"),
        (("key", "driver"), 5, "key.driver is 5; text is needed"),
        (("decoder",), "../decoder.plan", "leads out of the bundle"),
        (("decoder",), "engines/other.plan", "which has no digest"),
        (("surprise",), 1, "unknown fields engines.*.surprise"),
    ],
)
def test_a_malformed_entry_is_refused(
    built: Bundle, key: EngineKey, path: tuple[str, ...], value: object, message: str
) -> None:
    raw: dict[str, Any] = json.loads(built.manifest.to_json())
    *parents, last = path
    target = raw["engines"][key.name]
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(BundleCorruptError, match=message):
        parse_manifest(json.dumps(raw))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; it must be 1 or above"),
        ({"max_chunk": 65}, "max_chunk is 65 and max_context 64"),
        ({"max_logits_rows": 33}, "max_logits_rows is 33 and max_chunk 32"),
    ],
)
def test_limits_that_do_not_fit_together_are_refused(changes: dict[str, int], message: str) -> None:
    values = {field.name: getattr(LIMITS, field.name) for field in fields(EngineLimits)}
    with pytest.raises(InputError, match=message):
        EngineLimits(**{**values, **changes})
