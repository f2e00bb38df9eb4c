"""`neo-edge prepack`: builds, lists, removes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neo_edge.cli import main
from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant

DATA = "decoder.onnx.data"

pytestmark = pytest.mark.usefixtures("prepacked_cache")


def test_the_verb_builds_lists_and_removes(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    assert main(["prepack", str(tiny_bundle), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["built"]
    assert first["size_bytes"] > first["bundle_bytes"]
    assert main(["prepack", str(tiny_bundle), "--verify"]) == 0
    assert "is prepacked already" in capsys.readouterr().out
    assert main(["prepack", str(copy), "--variant", "fp16"]) == 0
    shutil.rmtree(copy)
    assert main(["prepack", "--list"]) == 0
    listed = capsys.readouterr().out
    assert f"fp32 of {tiny_bundle}" in listed
    assert "of no use: the bundle is gone" in listed
    assert main(["prepack", "--clear-stale"]) == 0
    assert "removed 1 from" in capsys.readouterr().out
    assert main(["prepack", str(tiny_bundle), "--clear", "--json"]) == 0
    assert [one["variant"] for one in json.loads(capsys.readouterr().out)] == ["fp32"]
    assert main(["prepack", "--list"]) == 0
    assert "0 prepacked, 0 B" in capsys.readouterr().out


def test_the_verb_shows_damage_and_what_another_onnxruntime_built(
    prepacked_entry: PrepackedVariant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "__version__", "1.99.0")
        assert main(["prepack", "--list"]) == 0
        assert "of no use: onnxruntime was" in capsys.readouterr().out
    (prepacked_entry.folder / DATA).write_bytes(bytes((prepacked_entry.folder / DATA).stat().st_size))
    assert main(["prepack", "--list"]) == 0
    assert main(["prepack", "--list", "--verify"]) == 1
    assert "decoder.onnx.data was altered" in capsys.readouterr().out
    (prepacked_entry.folder / DATA).write_bytes(b"short")
    assert main(["prepack", "--list"]) == 1
    assert "bytes, not" in capsys.readouterr().out
    assert main(["prepack", "--clear-stale"]) == 0
    assert not prepacked_entry.folder.exists()


def test_the_verb_wants_to_know_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepack"]) == 1
    assert "give the BUNDLE to prepack" in capsys.readouterr().err
    assert main(["prepack", "x.bundle", "--list"]) == 1
    assert "take no BUNDLE" in capsys.readouterr().err


def test_clearing_a_cache_that_is_not_there_removes_nothing(prepacked_cache: PrepackedCache) -> None:
    assert main(["prepack", "--clear"]) == 0
    assert not prepacked_cache.folder.exists()
