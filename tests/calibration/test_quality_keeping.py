"""Keeping a measurement: what the manifest says of a variant before and after, and what ends without a trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.cli import main
from neo_edge.errors import BundleCorruptError, BundleError, InputError
from neo_edge.manifest import TokenEmbedding, Variant
from neo_edge_calibration.quality import QualityData, measure_and_keep, measure_variants, scene_data
from neo_edge_calibration.quality.record import measured_quality, target_of
from neo_edge_calibration.quality.report import FamilyQuality, QualityReport, TokenQuality, VariantBytes
from neo_edge_calibration.question import Question, Questions

if TYPE_CHECKING:
    from neo_edge.manifest_fields import JsonValue

MADE: Mapping[str, JsonValue] = {"recipe": {"name": "mine", "target_drop": 2.0}, "forced": True}
FEW = ["--count", "1", "--threads", "1"]


def report(lost: int, gained: int, count: int, target: float = 0.01) -> QualityReport:
    family = FamilyQuality("box", count, count - gained, count - lost, lost, gained)
    tokens = TokenQuality(10, 1.0, 0.0, 0.0, 0.0, (), 1.0, 1.0)
    size = VariantBytes(1, 2, 3)
    return QualityReport(
        "int8",
        "fp32",
        "int8",
        target,
        (family,),
        tokens,
        size,
        size,
        layer_snr_db={},
        data="",
        data_digest="",
    )


def variant(quality: Mapping[str, JsonValue], precision: str = "int8") -> Variant:
    table = TokenEmbedding("e", "float32", (1, 1))
    return Variant(precision, "modern", 24, "v", "d", table, "float32", quality)


@pytest.mark.parametrize(
    ("below_before", "found", "verdict", "below"),
    [
        (False, report(0, 0, 400), "met", False),
        (False, report(1, 0, 400), "not shown", False),
        (False, report(8, 0, 400), "missed", True),
        (False, report(4, 0, 400), "not shown", True),  # it lost a point, which so few do not prove
        (True, report(10, 0, 2000), "met", False),
        (True, report(0, 0, 100), "not shown", True),  # too few to take anything back
    ],
)
def test_a_variant_is_below_its_target_from_losing_as_much_until_it_is_shown_to_meet_it(
    below_before: bool, found: QualityReport, verdict: str, below: bool
) -> None:
    before: dict[str, JsonValue] = {"made": dict(MADE), "families": {"old": {}}, "unmeasured": True}
    kept = measured_quality(found, {**before, "below_target": True} if below_before else before)
    assert kept == {"made": dict(MADE), **found.to_manifest(), **({"below_target": True} if below else {})}
    assert kept["verdict"] == verdict
    assert bool(variant(kept).reservation) == (below or verdict != "met")


@pytest.mark.parametrize(
    ("quality", "precision", "target"),
    [
        ({}, "int8", 0.01),
        ({}, "int4", 0.03),
        ({"made": dict(MADE), "unmeasured": True}, "int8", 0.02),
        ({"made": dict(MADE), "target_drop": 0.005}, "int8", 0.005),
    ],
)
def test_a_variant_is_judged_by_what_it_was_made_for(
    quality: Mapping[str, JsonValue], precision: str, target: float
) -> None:
    assert target_of(variant(quality, precision)) == target


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 and fp16, of which the latter is said to be unmeasured."""
    import torch

    from neo_edge_export.bundle_export import ExportOptions, export_bundle

    torch.set_num_threads(1)
    target = tmp_path_factory.mktemp("keeping") / "nano.bundle"
    options = ExportOptions(precisions=("fp32", "fp16"), verify_slice=range(1))
    export_bundle(resolve_checkpoint("neo-ov-nano"), target, options)
    with BundleUpdate(open_bundle(target), overwrite=True) as update:
        update.commit(
            lambda found: replace(
                found,
                variants={
                    **found.variants,
                    "fp16": replace(
                        found.variants["fp16"],
                        quality={"made": dict(MADE), "unmeasured": True, "layer_snr_db": {"head": 40.0}},
                    ),
                },
            )
        )
    return target


@pytest.fixture
def root(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "nano.bundle")


def test_the_manifest_holds_what_the_command_found_with_every_interval(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["quality", str(root), "--variant", "fp16", *FEW, "--keep", "--json"]) == 1
    )  # not shown by one each
    found = json.loads(capsys.readouterr().out)["fp16"]
    bundle = open_bundle(root, verify="sha256")
    quality = bundle.variant("fp16").quality
    assert quality == {"made": dict(MADE), **found}
    assert found["target_drop"] == 0.02
    assert found["layer_snr_db"] == {"head": 40.0}
    assert len(found["families"]) == 15
    assert all(one["drop_low"] <= one["drop"] <= one["drop_high"] for one in found["families"].values())
    assert bundle.variant("fp16").reservation.startswith("that it loses less accuracy")
    assert not list(root.glob(".partial*"))


def test_the_command_says_what_it_wrote_and_which_count_could_show_the_target(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", str(root), "--variant", "fp16", *FEW, "--keep"]) == 1
    *_, count, blank, written = capsys.readouterr().out.splitlines()
    assert (count, blank) == ("--count 190 could show what is not shown", "")  # two points
    assert written == f"wrote the quality of fp16 into {root}"


def test_figures_that_were_kept_are_replaced_by_those_of_the_next_time(root: Path) -> None:
    for count in (1, 2):
        measure_and_keep(
            open_bundle(root), ["fp16"], "fp32", scene_data(count, families=["colour"]), threads=1
        )
    families = open_bundle(root).variant("fp16").quality["families"]
    assert isinstance(families, dict)
    assert list(families) == ["colour"]
    assert families["colour"]["count"] == 2  # type: ignore[index, call-overload]


def test_without_keep_the_bundle_stays_as_it_is(root: Path) -> None:
    before = (root / "bundle.json").read_bytes()
    main(["quality", str(root), "--variant", "fp16", "--family", "colour", *FEW])
    assert (root / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("option", [["--target-drop", "50"], ["--family", "colour"]])
def test_a_milder_judgement_or_a_part_is_not_kept(
    root: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "bundle.json").read_bytes()
    assert main(["quality", str(root), "--variant", "fp16", *FEW, "--keep", *option]) == 1
    assert "leave --target-drop and --family out, or --keep" in capsys.readouterr().err
    assert (root / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(("points", "said"), [("0", "0"), ("-1", "-1"), ("100.5", "100.5"), ("nan", "nan")])
def test_a_target_that_is_no_share_of_the_questions_is_refused_in_the_unit_that_was_typed(
    root: Path, points: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", str(root), "--variant", "fp16", *FEW, f"--target-drop={points}"]) == 1
    assert (
        f"--target-drop is {said}; it is in points of accuracy, above 0 and at most 100"
        in capsys.readouterr().err
    )


def test_a_target_of_all_points_which_recipes_may_have_is_measured(root: Path) -> None:
    data = scene_data(1, families=["colour"])
    found = measure_variants(open_bundle(root), ["fp16"], "fp32", data, target_drop=1.0, threads=1)
    assert found["fp16"].target_drop == 1.0


def test_a_bundle_that_is_being_updated_is_refused_before_anything_is_asked(root: Path) -> None:
    with (
        BundleUpdate(open_bundle(root)),
        pytest.raises(BundleError, match="is being updated by another process"),
    ):
        measure_and_keep(open_bundle(root), ["fp16"], "fp32", _unaskable())


def test_weights_that_are_not_the_manifests_are_refused_before_anything_is_asked(root: Path) -> None:
    weights = root / "fp16" / "decoder.onnx.data"
    altered = bytearray(weights.read_bytes())
    altered[1000] ^= 1
    weights.write_bytes(altered)
    with pytest.raises(BundleCorruptError, match=r"fp16/decoder.onnx.data was altered"):
        measure_and_keep(open_bundle(root), ["fp16"], "fp32", _unaskable())


def test_a_measurement_that_fails_leaves_the_bundle_as_it_was(root: Path) -> None:
    before = (root / "bundle.json").read_bytes()
    with pytest.raises(InputError, match="no picture"):
        measure_and_keep(open_bundle(root), ["fp16"], "fp32", _unaskable(), threads=1)
    assert (root / "bundle.json").read_bytes() == before
    assert not list(root.glob(".partial*"))


def _unaskable() -> QualityData:
    def make() -> Question:
        raise InputError("the question has no picture")

    return QualityData("broken", Questions([make]))


def test_a_family_that_ended_is_told_while_others_are_still_asked(
    exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neo_edge_calibration.quality import measuring

    monkeypatch.setattr(measuring, "_TELLING", 2)
    bundle: Bundle = open_bundle(exported)
    measuring.measure_variants(bundle, ["fp16"], "fp32", scene_data(2, families=["colour", "box"]), threads=1)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.endswith(" min: colour, 2 questions, points lost: fp16 0.00 (-65.76 to 65.76)")
