from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import FILES, tiny_manifest

from neo_edge.config import load_config
from neo_edge.errors import BundleCorruptError, BundleVersionError
from neo_edge.manifest import Calibration, FileEntry, Manifest, parse_manifest
from neo_edge.manifest_fields import check_relative_path


@pytest.fixture
def manifest(golden_tiny: Path) -> Manifest:
    files = {path: FileEntry(len(content), "ab" * 32) for path, content in FILES.items()}
    return replace(tiny_manifest(load_config(golden_tiny)), files=files)


@pytest.fixture
def raw(manifest: Manifest) -> dict[str, Any]:
    return json.loads(manifest.to_json())


def test_a_manifest_reads_back_equal(manifest: Manifest) -> None:
    assert parse_manifest(manifest.to_json()) == manifest


def test_a_bundle_without_special_tokens_reads_back(manifest: Manifest) -> None:
    without = replace(manifest, special_tokens=None)
    assert parse_manifest(without.to_json()) == without


def test_the_text_names_every_field_of_the_schema(raw: dict[str, Any]) -> None:
    assert raw.keys() == {
        "schema_version",
        "producer",
        "model",
        "special_tokens",
        "tokenizer",
        "variants",
        "provenance",
        "files",
    }
    assert raw["schema_version"] == 1
    assert raw["variants"]["fp32"].keys() == {
        "precision",
        "ops",
        "opset",
        "vision",
        "decoder",
        "token_embedding",
        "cache_dtype",
        "quality",
        "layer_precision",
    }


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5])
def test_another_schema_version_is_refused_by_its_number(raw: dict[str, Any], version: object) -> None:
    raw["schema_version"] = version
    with pytest.raises(BundleVersionError, match=repr(version)):
        parse_manifest(json.dumps(raw))


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        del raw[path[-1]]

    return change


VARIANT = ("variants", "fp32")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_drop("producer"), "lacks producer"),
        (_drop("files"), "lacks files"),
        (_drop(*VARIANT, "opset"), "lacks variants.fp32.opset"),
        (_set("surprise", to=1), "unknown fields surprise"),
        (_set(*VARIANT, "surprise", to=1), r"unknown fields variants\.fp32\.surprise"),
        (_set("producer", to=[]), "producer is"),
        (_set("tokenizer", to=1), "tokenizer is 1; true or false"),
        (_set("variants", to=[]), "variants is"),
        (_set(*VARIANT, "ops", to="exotic"), "modern or portable"),
        (_set(*VARIANT, "cache_dtype", to="int8"), "float32 or float16"),
        (_set(*VARIANT, "opset", to="24"), "opset is '24'"),
        (_set(*VARIANT, "opset", to=-1), "opset is -1"),
        (_set(*VARIANT, "precision", to=""), "precision"),
        (_set(*VARIANT, "quality", to=None), "quality is None"),
        (_set(*VARIANT, "token_embedding", "shape", to=[320]), "shape"),
        (_set(*VARIANT, "token_embedding", "shape", to=[320, 63]), r"the model needs \[320, 64\]"),
        (_set(*VARIANT, "token_embedding", "dtype", to="float16"), "needs 40960"),
        (_set(*VARIANT, "vision", to="fp32/absent.onnx"), "no digest"),
        (_set(*VARIANT, "vision", to="/etc/passwd"), "leads out"),
        (_set("special_tokens", "eos", to=[1, "x"]), "eos"),
        (_set("special_tokens", "img_end", to=318), "distinct"),
        (_set("model", "decoder", "head_dim", to=6), "head_dim"),
        (_set("model", to={}), "model config"),
        (_set("files", "chat_template.jinja", "sha256", to="AB" * 32), "sha256"),
        (_set("files", "chat_template.jinja", "sha256", to="ab"), "sha256"),
        (_set("files", "chat_template.jinja", "size_bytes", to=1.0), "size_bytes"),
    ],
)
def test_a_wrong_field_is_named(
    raw: dict[str, Any], change: Callable[[dict[str, Any]], None], named: str
) -> None:
    change(raw)
    with pytest.raises(BundleCorruptError, match=named):
        parse_manifest(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema_version": NaN}', "[" * 100_000])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleCorruptError, match=r"bundle\.json"):
        parse_manifest(text)


OUTSIDE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/x",
    "//x",
    "a//b",
    "./a",
    "a/",
    "C:/x",
    "a\\b",
    "..\\x",
    "a\0b",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_could_lead_out_of_the_bundle_are_refused(raw: dict[str, Any], path: str) -> None:
    raw["files"][path] = {"size_bytes": 1, "sha256": "ab" * 32}
    with pytest.raises(BundleCorruptError, match="leads out"):
        parse_manifest(json.dumps(raw))


@given(st.text(alphabet="a./\\:~", max_size=8))
def test_a_path_that_passes_stays_below_its_folder(path: str) -> None:
    try:
        check_relative_path(path)
    except BundleCorruptError:
        return
    root = Path("/bundle")
    resolved = Path(root, path).resolve()
    assert resolved != root
    assert resolved.is_relative_to(root)


def test_a_number_that_json_does_not_have_is_refused_when_writing(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(manifest, provenance={"loss": float("nan")}).to_json()


def test_calibrations_read_back_and_are_left_out_where_there_are_none(manifest: Manifest) -> None:
    calibration = Calibration("fp32/vision.onnx", "fp32", "max", 8, "scenes")
    calibrated = replace(manifest, calibrations={"default": calibration})
    assert parse_manifest(calibrated.to_json()) == calibrated
    assert "calibrations" not in json.loads(manifest.to_json())


def test_a_calibration_whose_file_has_no_digest_is_refused(manifest: Manifest) -> None:
    calibration = Calibration("calibration/gone.safetensors", "fp32", "max", 8, "scenes")
    text = replace(manifest, calibrations={"default": calibration}).to_json()
    with pytest.raises(BundleCorruptError, match="calibration 'default' names 'calibration/gone.*no digest"):
        parse_manifest(text)
