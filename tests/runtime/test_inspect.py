"""`neo-edge inspect`: its figures against what the runtime does with the same bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tiny_golden import GOLDEN

import neo_edge
from neo_edge.bundle import open_bundle
from neo_edge.cli import main
from neo_edge.errors import BundleCorruptError, InputError, MemoryBudgetError
from neo_edge.positions import layout
from neo_edge_runtime.inspection import inspect
from neo_edge_runtime.memory_forecast import MAX_CONTEXT_TOKENS, forecast
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.ort_memory import weight_bytes


@pytest.mark.parametrize("variant", ["fp32", "fp16-portable"])
@pytest.mark.parametrize("context", [1, 300, 3000])
def test_a_session_is_admitted_within_the_forecast_and_not_below(
    tiny_bundle: Path, variant: str, context: int
) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), variant, threads=1)
    expected = forecast(backend.traits, weights=0, context_tokens=context, picture_tokens=0)
    backend.close()
    for limit, fits in ((expected.total, True), (expected.total - 1, False)):
        with (
            neo_edge.load(tiny_bundle, variant=variant, threads=1, memory_limit_bytes=limit) as model,
            model.session() as session,
        ):
            piece = layout([1] * context, [], model.tokens)
            if fits:
                session.preflight(piece)
            else:
                with pytest.raises(MemoryBudgetError):
                    session.preflight(piece)


def test_a_bundle_is_described_without_being_loaded(tiny_bundle: Path) -> None:
    report, bundle = inspect(tiny_bundle, 512), open_bundle(tiny_bundle)
    assert report.kind == "bundle"
    assert list(report.variants) == list(bundle.manifest.variants)
    assert (
        report.size_bytes
        == sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
        - (tiny_bundle / "bundle.json").stat().st_size
    )
    for name, variant in report.variants.items():
        stored = bundle.manifest.variants[name]
        stored_bytes = weight_bytes(bundle.manifest, stored)
        widening = 2 if variant.precision == "fp16" else 1  # to float32, which the CPU computes in
        assert variant.memory.weights == stored_bytes * widening
        assert variant.size_bytes == stored_bytes + stored.token_embedding.size_bytes
        assert variant.layer_precision == stored.layer_precision
        # 3 layers, 2 heads of 16 (keys twice as wide)
        assert variant.memory.kv_cache_per_token == 3 * 2 * 48 * (4 if variant.precision == "fp32" else 2)
        assert variant.memory.kv_cache == 576 * variant.memory.kv_cache_per_token


def test_a_checkpoint_says_what_its_exports_would_be(tiny_bundle: Path) -> None:
    exported, foreseen = inspect(tiny_bundle), inspect(GOLDEN)
    assert foreseen.kind == "checkpoint"
    assert foreseen.parameters == exported.parameters
    assert foreseen.tensor_types == {"F32": 58}
    assert foreseen.tokenizer is False
    assert set(foreseen.variants) == set(exported.variants)
    for name, variant in foreseen.variants.items():
        actual = exported.variants[name].memory
        assert variant.memory.weights <= actual.weights < 1.25 * variant.memory.weights  # graphs, constants
        assert variant.memory.kv_cache == actual.kv_cache
        assert variant.memory.scratch == actual.scratch


def test_tensors_of_another_type_are_named_once_for_all_layers(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "model.safetensors")
    mixed = {name: array.astype("float16") if "norm" in name else array for name, array in tensors.items()}
    save_file(mixed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((GOLDEN / "config.json").read_bytes())
    report = inspect(tmp_path)
    assert set(report.tensor_types) == {"F32", "F16"}
    usual = max(report.tensor_types, key=lambda kind: report.tensor_types[kind])
    assert set(report.layer_precision.values()) == {"F32", "F16"} - {usual}
    assert any(name.startswith("language_model.model.layers.*.") for name in report.layer_precision)


@pytest.mark.parametrize("context", [0, -1, MAX_CONTEXT_TOKENS + 1])
def test_an_impossible_context_is_refused(context: int) -> None:
    with pytest.raises(InputError, match="choose 1 to"):
        inspect(GOLDEN, context)


def test_the_verb_prints_what_the_json_holds(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--context", "300"]) == 0
    text = capsys.readouterr().out
    assert main(["inspect", str(tiny_bundle), "--context", "300", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert f"{report['parameters']:,}" in text
    assert "at a context of 300 tokens" in text
    for name, variant in report["variants"].items():
        assert f"  {name} " in text
        memory = variant["memory"]
        assert memory["total"] == memory["weights"] + memory["kv_cache"] + memory["scratch"]
        assert variant["quality"]["verification"]["checks"]
    assert "decoder.layers.*.input_layernorm.weight  float32" in text
    assert max(map(len, text.replace(str(tiny_bundle), "").splitlines())) <= 80


def test_the_verb_takes_what_export_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", "neo-ov-nano"]) == 0
    assert "exports would be about" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path)]) == 1
    assert "neither bundle.json nor config.json" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nothing")]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_damaged_bundle_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes((tiny_bundle / "bundle.json").read_bytes())
    with pytest.raises(BundleCorruptError, match="is missing"):
        inspect(tmp_path)


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    command = f"{sys.executable} -m neo_edge.cli inspect {GOLDEN} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""
