"""What the manifest keeps of a variant's quality and making, and whether it is good enough."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from neo_edge.errors import QuantizationError
from neo_edge.manifest_fields import JsonValue
from neo_edge_calibration.quality import QualityReport
from neo_edge_calibration.quality.report import show_points
from neo_edge_calibration.statistics import CalibrationStatistics
from neo_edge_export.quantization.group_inputs import GroupInputs
from neo_edge_export.quantization.recipe import Recipe


def lost_families(report: QualityReport) -> list[str]:
    """Families that lost as much as the target or more; noise of few questions counts."""
    return [family.name for family in report.families if family.drop >= report.target_drop]


def require_quality(name: str, report: QualityReport | None, *, force: bool, kept: bool) -> None:
    """Raises `QuantizationError` when a variant lost too much, unless it is forced."""
    lost = lost_families(report) if report is not None else []
    if report is None or not lost or force:
        return
    drops = {family.name: family.drop for family in report.families}
    worst = ", ".join(f"{family} {show_points(round(drops[family], 4))}" for family in lost)
    cure = "keep sensitive layers finer with --target-drop" if not kept else "choose a finer recipe"
    raise QuantizationError(
        f"the variant {name!r} loses points of accuracy: {worst}; its target is below "
        f"{show_points(report.target_drop)} in every family, so it is not written: {cure}, calibrate with more data, "
        "ask more questions, or write it with --force"
    )


def quality_record(report: QualityReport | None, made: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """`Variant.quality`: how it was made, and what was measured of it."""
    if report is None:
        return {"made": made, "unmeasured": True}
    below: dict[str, JsonValue] = {"below_target": True} if lost_families(report) else {}
    return {"made": made, **report.to_manifest(), **below}


def making_record(
    recipe: Recipe,
    source: str,
    statistics: CalibrationStatistics | None,
    inputs: GroupInputs,
    kept: tuple[str, ...],
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
    }


def _listed(value: object) -> object:
    """Tuples as lists, which is what JSON reads back."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
