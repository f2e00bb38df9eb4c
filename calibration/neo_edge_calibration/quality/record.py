"""What the manifest keeps of a measurement, and the target that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from neo_edge_calibration.quality.report import FamilyQuality, QualityReport

if TYPE_CHECKING:
    from neo_edge.manifest import Variant
    from neo_edge.manifest_fields import JsonValue


def lost_families(report: QualityReport) -> list[FamilyQuality]:
    """Families whose measured drop is the target or more, whether the interval proves it or not."""
    return [family for family in report.families if family.drop >= report.target_drop]


def measured_quality(
    report: QualityReport, before: Mapping[str, JsonValue] | None = None
) -> dict[str, JsonValue]:
    """`Variant.quality` after a measurement.

    What an earlier one found is replaced; how the variant was made, and what its export was checked for, stay. It is
    `below_target` when it lost its target or more, whoever wrote it, and remains so until a measurement meets the
    target in every family: one that shows nothing takes back nothing.

    Args:
        report: the measurement.
        before: what the manifest says of the variant now.
    """
    earlier = dict(before or {})
    below = bool(lost_families(report)) or (bool(earlier.get("below_target")) and not report.met)
    for outdated in ("below_target", "unmeasured"):
        earlier.pop(outdated, None)
    return {**earlier, **report.to_manifest(), **({"below_target": True} if below else {})}


def target_of(variant: Variant) -> float:
    """Most accuracy that a variant may lose, as a share.

    That of its last measurement, else its recipe's; for a variant without either, `default_target`.
    """
    quality = variant.quality
    if isinstance(known := quality.get("target_drop"), int | float):
        return float(known)
    made = quality.get("made")
    recipe = made.get("recipe") if isinstance(made, dict) else None
    points = recipe.get("target_drop") if isinstance(recipe, dict) else None
    return points / 100 if isinstance(points, int | float) else default_target(variant.precision)


def default_target(precision: str) -> float:
    """Most accuracy that a variant of this precision may lose, as a share: 3 points for 4 bits, else 1."""
    return 0.03 if "4" in precision else 0.01
