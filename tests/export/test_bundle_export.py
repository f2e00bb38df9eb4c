"""A bundle is written whole, says what it holds, or is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from byte_tokenizer import write_byte_tokenizer
from synthetic_checkpoint import golden_tensors, write_checkpoint

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.chat_template import NEO1_0_JINJA
from neo_edge.checkpoint import Checkpoint
from neo_edge.errors import BundleError, ExportError, ParityError, TokenizerError
from neo_edge_export.bundle_export import ExportOptions, export_bundle

FP32 = ExportOptions()


def test_the_manifest_describes_every_variant(tiny_bundle: Bundle, tiny: Checkpoint) -> None:
    manifest = tiny_bundle.manifest
    assert manifest.model == tiny.config
    assert manifest.provenance["checkpoint_sha256"] == tiny.digest()
    assert list(manifest.variants) == ["fp32", "fp32-portable", "fp16", "fp16-portable"]
    portable = manifest.variants["fp16-portable"]
    assert (portable.precision, portable.ops, portable.opset) == ("fp16", "portable", 20)
    assert portable.cache_dtype == portable.token_embedding.dtype == "float16"
    assert portable.layer_precision == {
        "vision.frequency": "float32",
        "decoder.frequency": "float32",
        "decoder.layers.*.input_layernorm.weight": "float32",
        "decoder.layers.*.post_attention_layernorm.weight": "float32",
        "decoder.norm.weight": "float32",
    }
    assert manifest.variants["fp32"].layer_precision == {}


def test_the_manifest_holds_what_the_verification_measured(tiny_bundle: Bundle) -> None:
    for name, variant in tiny_bundle.manifest.variants.items():
        measured = variant.quality["verification"]
        assert isinstance(measured, dict)
        assert measured["layers_at_once"] == 3
        checks = measured["checks"]
        assert isinstance(checks, dict)
        limit = 2e-5 if variant.precision == "fp32" else 0.03
        kinds = ("visual tokens", "whole prefill", "chunked prefill", "decode")
        assert all(0 < checks[kind]["largest"] < limit for kind in kinds), name


def test_special_tokens_come_from_config_json_when_there_is_no_tokenizer(tiny_bundle: Bundle) -> None:
    tokens = tiny_bundle.manifest.special_tokens
    assert not tiny_bundle.manifest.tokenizer
    assert tokens is not None
    assert (tokens.img_context, tokens.img_start, tokens.img_end) == (317, 318, 319)


def test_a_checkpoint_that_names_no_image_tokens_still_exports(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", golden_tensors())
    config = json.loads((folder / "config.json").read_text())
    for name in ("img_context_token_id", "img_start_token_id", "img_end_token_id"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    export_bundle(folder, tmp_path / "out", FP32)
    assert open_bundle(tmp_path / "out").manifest.special_tokens is None


def test_host_files_travel_with_the_bundle(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", golden_tensors())
    for name in ("chat_template.jinja", "generation_config.json", "preprocessor_config.json"):
        (folder / name).write_text(f'{{"the": "{name}"}}')
    export_bundle(folder, tmp_path / "out", FP32)
    bundle = open_bundle(tmp_path / "out")
    for name in ("chat_template.jinja", "generation_config.json", "preprocessor_config.json"):
        assert bundle.path(name).read_text() == f'{{"the": "{name}"}}'


def test_a_checkpoint_without_a_chat_template_gets_the_one_it_was_trained_with(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", golden_tensors())
    write_byte_tokenizer(folder)
    export_bundle(folder, tmp_path / "out", FP32)
    assert open_bundle(tmp_path / "out").path("chat_template.jinja").read_text() == NEO1_0_JINJA


def test_a_checkpoint_without_a_tokenizer_is_exported_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", golden_tensors())
    export_bundle(folder, tmp_path / "out", FP32)
    assert "has no tokenizer: the bundle takes token ids only" in caplog.text


def test_a_broken_tokenizer_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", golden_tensors())
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError):
        export_bundle(folder, tmp_path / "out", FP32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_weight_that_overflows_leaves_nothing(tmp_path: Path) -> None:
    tensors = golden_tensors()
    tensors["language_model.lm_head.weight"][0, 0] = 1e6
    folder = write_checkpoint(tmp_path / "checkpoint", tensors)
    with pytest.raises(ExportError, match=r"lm_head\.weight reaches 1e\+06"):
        export_bundle(folder, tmp_path / "out", ExportOptions(("fp32", "fp16")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_model_that_overflows_float16_leaves_nothing(tmp_path: Path) -> None:
    tensors = golden_tensors()
    for name, array in tensors.items():
        if name.endswith(("mlp.up_proj.weight", "mlp.gate_proj.weight")):
            array *= 2000
    folder = write_checkpoint(tmp_path / "checkpoint", tensors)
    with pytest.raises(ParityError, match=r"fp16: activations .*, allowed 6.55e\+04"):
        export_bundle(folder, tmp_path / "out", ExportOptions(("fp16",)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_tied_checkpoint_exports(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", tied=True, num_hidden_layers=2)
    found = export_bundle(folder, tmp_path / "out", ExportOptions(("fp16",), ("portable",)))
    assert all(check.passed for check in found["fp16-portable"].checks)


def test_a_bundle_that_is_there_is_replaced_only_when_asked(golden_tiny: Path, tmp_path: Path) -> None:
    export_bundle(golden_tiny, tmp_path / "out", FP32)
    with pytest.raises(BundleError, match="exists already"):
        export_bundle(golden_tiny, tmp_path / "out", FP32)
    export_bundle(golden_tiny, tmp_path / "out", ExportOptions(ops=("portable",), overwrite=True))
    assert list(open_bundle(tmp_path / "out").manifest.variants) == ["fp32-portable"]
