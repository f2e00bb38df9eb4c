from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_bundle import FILES, write_bundle

from neo_edge.bundle import find_faults, open_bundle, read_bundle, verify_bundle
from neo_edge.config import ModelConfig, load_config
from neo_edge.errors import BundleCorruptError, BundleError, BundleVersionError


@pytest.fixture
def config(golden_tiny: Path) -> ModelConfig:
    return load_config(golden_tiny)


@pytest.fixture
def root(tmp_path: Path, config: ModelConfig) -> Path:
    target = tmp_path / "x.bundle"
    write_bundle(target, config)
    return target


def test_a_whole_bundle_opens_and_verifies(root: Path, config: ModelConfig) -> None:
    bundle = open_bundle(root)
    assert verify_bundle(root) == bundle
    assert bundle.manifest.model == config
    assert bundle.path("fp32/vision.onnx").read_bytes() == FILES["fp32/vision.onnx"]
    assert bundle.variant("fp32").opset == 24


def test_a_bundle_may_be_moved(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "deep" / "er"
    elsewhere.parent.mkdir()
    root.rename(elsewhere)
    assert verify_bundle(elsewhere).path("fp32/decoder.onnx").is_relative_to(elsewhere)


def test_a_bundle_opens_through_a_link_to_its_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert verify_bundle(tmp_path / "link").manifest.variants.keys() == {"fp32"}


def test_a_manifest_that_the_system_does_not_open_is_a_typed_error(root: Path) -> None:
    (root / "bundle.json").unlink()
    (root / "bundle.json").symlink_to("bundle.json")
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read .*check its owner"):
        open_bundle(root)


def test_only_files_of_the_manifest_are_handed_out(root: Path) -> None:
    bundle = open_bundle(root)
    for relative in ("bundle.json", "../secret", "/etc/passwd", "fp32"):
        with pytest.raises(BundleError, match="has no file"):
            bundle.path(relative)


def test_an_unknown_variant_is_refused_with_the_names_there_are(root: Path) -> None:
    with pytest.raises(BundleError, match="'int8': it has fp32"):
        open_bundle(root).variant("int8")


@pytest.mark.parametrize("relative", sorted(FILES))
def test_a_missing_file_is_named(root: Path, relative: str) -> None:
    (root / relative).unlink()
    with pytest.raises(BundleCorruptError, match=f"{relative} is missing"):
        open_bundle(root)


def test_a_truncated_file_is_named_with_both_sizes(root: Path) -> None:
    path = root / "fp32/decoder.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        BundleCorruptError, match=r"decoder\.onnx\.data has 1499 bytes, the manifest says 1500"
    ):
        open_bundle(root)


def test_an_altered_byte_is_found_by_the_digest_only(root: Path) -> None:
    path = root / "fp32/decoder.onnx.data"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    open_bundle(root)
    with pytest.raises(BundleCorruptError, match=r"decoder\.onnx\.data was altered"):
        verify_bundle(root)


def test_all_faults_are_listed_at_once(root: Path) -> None:
    (root / "fp32/vision.onnx").unlink()
    (root / "chat_template.jinja").write_bytes(b"")
    assert len(find_faults(read_bundle(root), sha256=False)) == 2


def test_a_link_that_leads_out_is_refused_even_with_the_right_content(root: Path, tmp_path: Path) -> None:
    path = root / "fp32/vision.onnx"
    shutil.move(path, tmp_path / "outside.onnx")
    path.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleCorruptError, match="link that leads out"):
        verify_bundle(root)


def test_a_folder_that_leads_out_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "fp32", tmp_path / "outside")
    (root / "fp32").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleCorruptError, match="link that leads out"):
        verify_bundle(root)


def test_a_link_in_a_circle_is_a_missing_file(root: Path) -> None:
    path = root / "fp32/vision.onnx"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleCorruptError, match=r"fp32/vision\.onnx is missing"):
        open_bundle(root)


def test_a_folder_in_place_of_a_file_is_a_missing_file(root: Path) -> None:
    (root / "chat_template.jinja").unlink()
    (root / "chat_template.jinja").mkdir()
    with pytest.raises(BundleCorruptError, match=r"chat_template\.jinja is missing"):
        open_bundle(root)


def test_another_version_is_told_from_damage(root: Path) -> None:
    data = json.loads((root / "bundle.json").read_text())
    (root / "bundle.json").write_text(json.dumps(data | {"schema_version": 99}))
    with pytest.raises(BundleVersionError, match="99"):
        open_bundle(root)


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_a_truncated_manifest_is_refused(root: Path, kept: int) -> None:
    path = root / "bundle.json"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleCorruptError, match=r"bundle\.json"):
        open_bundle(root)


def test_a_manifest_that_is_no_text_is_refused(root: Path) -> None:
    (root / "bundle.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleCorruptError, match="UTF-8"):
        open_bundle(root)


def test_what_is_no_bundle_is_refused_by_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        open_bundle(tmp_path)
    (tmp_path / "folder" / "bundle.json").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        open_bundle(tmp_path / "folder")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        open_bundle(file)
