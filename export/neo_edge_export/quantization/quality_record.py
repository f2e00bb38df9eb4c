"""What the manifest keeps of a variant's quality and making, and whether it is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from neo_edge.errors import QuantizationError
from neo_edge.manifest_fields import JsonValue
from neo_edge_calibration.quality import QualityReport
from neo_edge_calibration.quality.interval import questions_needed
from neo_edge_calibration.quality.record import lost_families, measured_quality
from neo_edge_calibration.quality.report import FamilyQuality, finite, named_points, show_points
from neo_edge_calibration.statistics import CalibrationStatistics
from neo_edge_export.quantization.group_inputs import GroupInputs
from neo_edge_export.quantization.recipe import Recipe


def require_quality(name: str, report: QualityReport | None, *, force: bool, kept: bool) -> None:
    """Raises `QuantizationError` when a variant lost its target or more in a family, unless it is forced.

    Where the whole interval of a family's drop lies at the target or above, the loss is shown, and only a better
    variant helps; where it only reaches there, more questions may show another drop. A variant whose drops all lie
    below the target, with an interval that reaches it, is written, and its manifest says that nothing was shown.

    Args:
        name: of the variant.
        report: None: it was not measured.
        force: write it all the same.
        kept: whether a target drop already kept layers in higher precision.
    """
    lost = lost_families(report) if report is not None else []
    if report is None or not lost or force:
        return
    target = report.target_drop
    shown = [family for family in lost if family.verdict(target) == "missed"]
    found = [
        f"{what}: {', '.join(map(_in_points, families))}"
        for what, families in (
            ("It loses more, as these questions show", shown),
            ("It lost more here, which so few questions do not prove", [f for f in lost if f not in shown]),
        )
        if families
    ]
    more = max(questions_needed(target), *(2 * family.count for family in lost))
    cures = [
        "choose a finer recipe" if kept else "keep sensitive layers finer with --target-drop",
        "calibrate with more data",
        *([] if shown else [f"ask more questions (--count {more}, or a longer file)"]),
    ]
    raise QuantizationError(
        f"the variant {name!r} is not written: its target is to lose less than {named_points(target)} of "
        f"accuracy in every family. {'. '.join(found)}. {_sentence(', '.join(cures))}, or write it with --force"
    )


def _in_points(family: FamilyQuality) -> str:
    low, high = (show_points(round(end, 4)) for end in family.interval)
    return (
        f"{family.name} {show_points(round(family.drop, 4))} (95 % interval {low} to {high}; {family.lost} lost and "
        f"{family.gained} gained of {family.count})"
    )


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def quality_record(
    report: QualityReport | None, made: dict[str, JsonValue], snr_db: Mapping[str, float]
) -> dict[str, JsonValue]:
    """`Variant.quality`: how it was made and what was measured of it; `snr_db`, by product, needs no questions."""
    if report is None:
        noise: dict[str, JsonValue] = {name: finite(value) for name, value in snr_db.items()}
        return {"made": made, "unmeasured": True, "layer_snr_db": noise}
    return measured_quality(report, {"made": made})


def making_record(
    recipe: Recipe,
    source: str,
    statistics: CalibrationStatistics | None,
    inputs: GroupInputs,
    kept: tuple[str, ...],
    *,
    forced: bool,
) -> dict[str, JsonValue]:
    """How the variant came to be."""
    calibrated: dict[str, JsonValue] = (
        {}
        if statistics is None
        else {
            "calibration": {
                "source": statistics.source,
                "samples": statistics.samples,
                "data_digest": statistics.data_digest,
            }
        }
    )
    return {
        "recipe": cast("dict[str, JsonValue]", _listed(asdict(recipe))),
        "source": source,
        **calibrated,
        "smoothing": dict(inputs.strengths),
        "kept": list(kept),
        **({"forced": True} if forced else {}),  # whatever a later measurement finds
    }


def _listed(value: object) -> object:
    """Tuples as lists, which is what JSON reads back."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
