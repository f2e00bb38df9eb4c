"""Which quantized variants are written: the drop that was measured, and what its interval shows, decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neo_edge.errors import QuantizationError
from neo_edge.manifest import TokenEmbedding, Variant
from neo_edge_calibration.quality.report import FamilyQuality, QualityReport, TokenQuality, VariantBytes
from neo_edge_export.quantization.quality_record import quality_record, require_quality

SIZE = VariantBytes(1, 2, 3)
TOKENS = TokenQuality(10, 1.0, 0.0, 0.0, 0.0, (), 1.0, 1.0)
BELOW = "it loses more accuracy than its target allows"
UNSHOWN = "that it loses less accuracy than its target was not shown: it was asked too few questions"


def family(name: str, lost: int, gained: int, count: int) -> FamilyQuality:
    return FamilyQuality(name, count, count - gained, count - lost, lost, gained)


def report(*families: FamilyQuality, target: float = 0.01) -> QualityReport:
    return QualityReport(
        "int8", "fp32", "int8", target, families, TOKENS, SIZE, SIZE, layer_snr_db={}, data="", data_digest=""
    )


def reservation(found: QualityReport | None) -> str:
    table = TokenEmbedding("e", "float32", (1, 1))
    variant = Variant("int8", "modern", 24, "v", "d", table, "float32")
    return replace(variant, quality=quality_record(found, {}, {})).reservation


def refusal(found: QualityReport, *, kept: bool = False) -> str:
    with pytest.raises(QuantizationError) as caught:
        require_quality("int8", found, force=False, kept=kept)
    return str(caught.value)


def test_a_loss_that_is_shown_is_refused_with_its_family_numbers_and_cures() -> None:
    found = report(family("box", 8, 0, 400), family("colour", 0, 0, 400))
    assert refusal(found) == (
        "the variant 'int8' is not written: its target is to lose less than 1 point of accuracy in every family. "
        "It loses more, as these questions show: box 2 (95 % interval 1.02 to 3.9; 8 lost and 0 gained of 400). "
        "Keep sensitive layers finer with --target-drop, calibrate with more data, or write it with --force"
    )
    assert "Choose a finer recipe, calibrate" in refusal(found, kept=True)


def test_a_loss_that_few_questions_do_not_prove_is_refused_and_more_questions_are_a_cure() -> None:
    few = refusal(report(family("box", 1, 0, 20)))
    assert (
        "It lost more here, which so few questions do not prove: box 5 (95 % interval -11.92 to 23.61; "
        in few
    )
    assert "ask more questions (--count 381, or a longer file), or write it with --force" in few
    assert "ask more questions (--count 800" in refusal(report(family("box", 6, 0, 400)))


def test_shown_and_unproved_losses_are_told_apart_and_more_questions_do_not_cure_a_shown_one() -> None:
    both = refusal(report(family("box", 8, 0, 400), family("motion", 4, 0, 400), family("turn", 3, 1, 400)))
    assert "show: box 2 (" in both
    assert "do not prove: motion 1 (" in both
    assert "turn" not in both
    assert "more questions" not in both


@pytest.mark.parametrize(
    ("families", "said"),
    [
        ([family("box", 0, 0, 400), family("colour", 0, 0, 400)], ""),
        ([family("box", 1, 0, 400)], UNSHOWN),
        ([family("box", 0, 0, 2)], UNSHOWN),
    ],
)
def test_a_drop_below_the_target_is_written_and_says_so_when_nothing_shows_it(
    families: list[FamilyQuality], said: str
) -> None:
    found = report(*families)
    require_quality("int8", found, force=False, kept=False)
    assert reservation(found) == said


@pytest.mark.parametrize("lost", [8, 4])
def test_what_was_forced_says_so_for_ever(lost: int) -> None:
    found = report(family("box", lost, 0, 400))
    require_quality("int8", found, force=True, kept=False)
    assert reservation(found) == BELOW


def test_what_was_not_measured_is_written_and_says_so() -> None:
    require_quality("int8", None, force=False, kept=False)
    assert reservation(None) == "its quality was never measured"
