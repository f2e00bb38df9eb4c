"""`neo-edge quantize` on the nano checkpoint: what it adds, what it measures, what it refuses."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sealing import seal

import neo_edge
from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.cli import main
from neo_edge.errors import BundleCorruptError, QuantizationError
from neo_edge_calibration.calibrating import calibrate
from neo_edge_calibration.quality import QualityData, scene_data
from neo_edge_calibration.scenes import make_question
from neo_edge_calibration.scoring import is_right
from neo_edge_calibration.sources.scenes import scene_source
from neo_edge_calibration.statistics import GroupStatistics, load_statistics, save_statistics
from neo_edge_export.bundle_export import ExportOptions, export_bundle
from neo_edge_export.quantization.kept_layers import finer_rules
from neo_edge_export.quantization.quantize import QuantizeOptions, quantize
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.recipes import RECIPES

FEW = ("colour", "exists")
SHARES = [("int8", 0.25, 0.30), ("int8-dynamic", 0.25, 0.30), ("int4", 0.14, 0.22)]
PLAIN = Recipe("plain", "", "modern", (LayerRule("*", "w8a8-token"),))
# One layer, so that few rounds of keeping its products in float are enough.
FIXED = Recipe(
    "fixed", "", "portable", (LayerRule("decoder.layers.0.*", "w8a8-tensor"), LayerRule("*", "float"))
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32 in both profiles with a calibration; and a second one that saw nothing like what will be asked."""
    target = tmp_path_factory.mktemp("quantize") / "nano.bundle"
    options = ExportOptions(("fp32",), ("modern", "portable"), verify_slice=range(1))
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, options)
    bundle = calibrate(open_bundle(target), scene_source(0), samples=8, threads=1).bundle
    statistics = load_statistics(bundle)
    dim = {name: dimmed(group) for name, group in statistics.groups.items()}
    with BundleUpdate(bundle) as update:
        (update.directory / "calibration").mkdir()
        save_statistics(replace(statistics, groups=dim), update.directory / "calibration/dim.safetensors")
        update.commit(
            lambda found: replace(
                found,
                calibrations={
                    **found.calibrations,
                    "dim": replace(found.calibrations["default"], file="calibration/dim.safetensors"),
                },
            )
        )
    return target


def dimmed(group: GroupStatistics) -> GroupStatistics:
    """As if all activations had been a hundredth of what they are: ranges from it clip nearly everything."""
    return replace(
        group,
        channel_amax=group.channel_amax / 100,
        channel_mean_square=group.channel_mean_square / 1e4,
        histogram_max=group.histogram_max / 100,
        rows=group.rows / 100,
    )


@pytest.fixture
def root(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "nano.bundle")


def few() -> QualityData:
    return scene_data(2, families=FEW)


def test_a_variant_is_added_measured_and_answers(root: Path) -> None:
    made = quantize(open_bundle(root), RECIPES["int8-dynamic"], few(), QuantizeOptions(), threads=1)
    bundle = open_bundle(root, verify="sha256")
    assert list(bundle.manifest.variants) == ["fp32", "fp32-portable", "int8-dynamic"]
    variant = bundle.variant("int8-dynamic")
    assert variant == made.variant
    assert (variant.precision, variant.ops, variant.opset, variant.cache_dtype) == (
        "int8",
        "modern",
        24,
        "float32",
    )
    assert variant.token_embedding.dtype == "int8"
    assert variant.layer_precision["decoder.layers.*.mlp.down_proj"] == "w8a8-token"
    assert variant.layer_precision["token_embedding"] == "int8"
    assert variant.reservation.startswith("that it loses less accuracy than its target was not shown")
    quality = json.loads(json.dumps(variant.quality))
    assert quality["verdict"] == "not shown"
    assert quality["families"].keys() == set(FEW)
    assert quality["data"]["questions"] == 4
    assert quality["made"]["source"] == "fp32"
    assert quality["made"]["calibration"]["samples"] == 8
    assert quality["made"]["recipe"]["name"] == "int8-dynamic"
    assert len(quality["made"]["smoothing"]) == 4 * 6 + 1
    assert len(quality["layer_snr_db"]) == 57
    question = make_question("colour", "quality 0", 0)
    with neo_edge.load(root, variant="int8-dynamic", threads=1) as model:
        assert is_right(question, model.generate(question.prompt, question.images).text)


@pytest.mark.parametrize(("name", "least", "most"), SHARES)
def test_files_shrink_with_the_bits_and_the_host_table_is_counted(
    root: Path, name: str, least: float, most: float
) -> None:
    """float32 over 8 bits is 4, over 4 bits with a float32 scale for 64 is 7.1, of which the head has no part."""
    bundle = open_bundle(root)
    quantize(bundle, RECIPES[name], None, QuantizeOptions())
    files = open_bundle(root).manifest.files
    source = "fp32-portable" if name == "int8" else "fp32"
    size, before = (
        sum(
            entry.size_bytes
            for path, entry in files.items()
            if path.startswith(f"{folder}/") and not path.endswith(".onnx")
        )
        for folder in (name, source)
    )
    assert least * before < size < most * before


def test_an_unmeasured_variant_says_so_when_it_is_loaded_and_inspected(
    root: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize(open_bundle(root), PLAIN, None, QuantizeOptions(calibration="default"))
    variant = open_bundle(root).variant("plain")
    assert variant.reservation == "its quality was never measured"
    assert len(json.loads(json.dumps(variant.quality))["layer_snr_db"]) == 57  # needs no questions
    with caplog.at_level(logging.WARNING), neo_edge.load(root, variant="plain", threads=1):
        assert "the variant plain of" in caplog.text
        assert "its quality was never measured" in caplog.text
    assert main(["inspect", str(root)]) == 0
    assert "warning: the variant plain: its quality was never measured" in capsys.readouterr().out


def test_a_variant_below_its_target_is_not_written_unless_forced_and_says_so_for_ever(root: Path) -> None:
    before = (root / "bundle.json").read_bytes()
    options = QuantizeOptions(calibration="dim")
    with pytest.raises(
        QuantizationError,
        match=r"'fixed' is not written: its target is to lose less than 1 point of accuracy",
    ):
        quantize(open_bundle(root), FIXED, few(), options, threads=1)
    assert (root / "bundle.json").read_bytes() == before
    assert not (root / "fixed").exists()
    made = quantize(open_bundle(root), FIXED, few(), replace(options, force=True), threads=1)
    assert made.report is not None
    found = open_bundle(root, verify="sha256").variant("fixed")
    assert found.quality["below_target"] is True
    assert found.reservation == "it loses more accuracy than its target allows"
    assert found.quality["made"]["forced"] is True  # type: ignore[index, call-overload]


def test_a_target_drop_keeps_the_noisiest_products_until_it_holds_and_lists_them(root: Path) -> None:
    options = QuantizeOptions(calibration="dim", target_drop=1.0)
    made = quantize(open_bundle(root), FIXED, few(), options, threads=1)
    assert made.kept
    assert made.report is not None
    assert all(family.drop < 0.01 for family in made.report.families)
    quality = open_bundle(root).variant("fixed").quality
    assert quality["made"]["kept"] == list(made.kept)  # type: ignore[index, call-overload]
    precision = made.variant.layer_precision
    words = {name: precision.get(name) or precision[re.sub(r"\.\d+\.", ".*.", name)] for name in made.kept}
    assert set(words.values()) == {"float"}


def test_the_noisiest_are_taken_first_and_those_in_float_not_again() -> None:
    rules = {name: LayerRule("*", "w4", group_size=32) for name in "abcdefgh"} | {
        "i": LayerRule("*", "float")
    }
    snr = {"a": 30.0, "b": 12.0, "c": 20.0, "d": 40.0, "j": 1.0}
    assert list(finer_rules(rules, snr, "modern", 1)) == ["b"]
    found = finer_rules(rules, snr, "modern", 4)
    assert list(found) == ["b", "c"]
    assert {rule.scheme for rule in found.values()} == {"w8a8-token"}
    assert finer_rules({"i": LayerRule("*", "float")}, {}, "modern", 1) == {}


def test_a_variant_is_replaced_only_when_asked_and_a_float_one_never(root: Path) -> None:
    quantize(open_bundle(root), PLAIN, None, QuantizeOptions())
    with pytest.raises(QuantizationError, match="has a variant 'plain' already: .* pass --overwrite"):
        quantize(open_bundle(root), PLAIN, None, QuantizeOptions())
    again = quantize(open_bundle(root), PLAIN, None, QuantizeOptions(overwrite=True))
    assert again.variant.decoder == "plain-2/decoder.onnx"
    assert not (root / "plain").exists()
    open_bundle(root, verify="sha256")
    with pytest.raises(QuantizationError, match="'fp32' is a float variant, and those are never replaced"):
        quantize(open_bundle(root), PLAIN, None, QuantizeOptions(name="fp32", overwrite=True))


def test_a_weight_that_was_altered_or_is_nan_ends_it_and_leaves_the_bundle_as_it_was(root: Path) -> None:
    bundle = open_bundle(root)
    path = bundle.path("fp32/decoder.onnx.data")
    data = np.memmap(path, "<f4", "r+")
    data[100_000] = np.nan
    data.flush()
    with pytest.raises(BundleCorruptError, match=r"fp32/decoder.onnx.data was altered"):
        quantize(bundle, PLAIN, None, QuantizeOptions())
    seal(root, "fp32/decoder.onnx.data")
    bundle = open_bundle(root)
    with pytest.raises(QuantizationError, match=r"decoder.layers.0.*holds NaN or infinity"):
        quantize(bundle, PLAIN, None, QuantizeOptions())
    assert list(open_bundle(root).manifest.variants) == ["fp32", "fp32-portable"]
    assert not list(root.glob(".partial*"))


ROWS = [
    (["--recipe", "int3"], "there is no recipe 'int3'"),
    (["--recipe", "int8-dynamic", "--calibration", "none"], "no calibration 'none': it has default, dim"),
    (
        ["--recipe", "int8", "--source", "fp32"],
        "'fp32' is fp32 of the modern profile; the recipe 'int8' starts from",
    ),
    (["--recipe", "int8", "--source", "fp8"], "no variant 'fp8': it has fp32, fp32-portable"),
    (["--recipe", "int8", "--name", "../x"], "'../x' cannot name a variant: use up to 64 letters"),
    (["--recipe", "int8", "--target-drop", "0"], "--target-drop is 0; it is in points of accuracy"),
    (
        ["--recipe", "int8", "--data", "none", "--target-drop", "1"],
        "--target-drop is measured, and --data is none",
    ),
    (["--recipe", "int8", "--data", "none", "--count", "3"], "--count chooses scenes, and --data is 'none'"),
    (["--recipe", "int8", "--data", "gone.jsonl"], "gone.jsonl cannot be read"),
    (["--recipe", "int8", "--html", "gone/page.html"], "there is no folder gone; make it first"),
]


@pytest.mark.parametrize(("arguments", "message"), ROWS)
def test_what_cannot_be_done_is_said_before_anything_is_done(
    exported: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported / "bundle.json").read_bytes()
    assert main(["quantize", str(exported), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert (exported / "bundle.json").read_bytes() == before


def test_a_bundle_without_what_a_recipe_needs_is_told_the_command(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    manifest = tiny_bundle.manifest
    modern = Bundle(tiny_bundle.root, replace(manifest, variants={"fp32": manifest.variants["fp32"]}))
    with pytest.raises(
        QuantizationError, match="portable profile, and .* has fp32: export it again with --ops"
    ):
        quantize(modern, RECIPES["int8"], None, QuantizeOptions())
    with pytest.raises(
        QuantizationError, match="needs activation statistics, .* has none: run neo-edge calibrate"
    ):
        quantize(tiny_bundle, RECIPES["int8"], None, QuantizeOptions())
    idle = replace(PLAIN, layers=(LayerRule("decoder.*", "w8"), LayerRule("decoder.lm_head", "float")))
    with pytest.raises(
        QuantizationError, match=r"has rows that no weight comes to: decoder.lm_head. Weights"
    ):
        quantize(tiny_bundle, idle, None, QuantizeOptions())
    shutil.copytree(tiny_bundle.root, tmp_path / "b")
    assert main(["quantize", str(tmp_path / "b"), "--recipe", "int8-dynamic"]) == 1


def test_the_command_prints_the_table_writes_the_page_and_gives_json(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "quantize",
        str(root),
        "--recipe",
        "int4",
        "--calibration",
        "default",
        "--count",
        "1",
        "--threads",
        "1",
    ]
    assert main([*arguments, "--html", str(tmp_path / "page.html")]) == 0
    output = capsys.readouterr().out
    assert "int4 beside fp32, 15 questions" in output
    assert f"wrote the variant int4 into {root}" in output
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert main([*arguments, "--json", "--name", "b"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variant"] == "b"
    assert found["kept"] == []
    assert found["layer_precision"]["decoder.layers.*.mlp.up_proj"] == "w4 group 64"
    assert found["quality"]["target_drop"] == 0.03
