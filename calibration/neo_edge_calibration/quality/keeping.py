"""Measures variants of a bundle, and writes into its manifest what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from neo_edge.bundle import Bundle, require_sound_variant
from neo_edge.bundle_update import BundleUpdate
from neo_edge_calibration.quality.measuring import measure_variants
from neo_edge_calibration.quality.record import measured_quality

if TYPE_CHECKING:
    from neo_edge.manifest import Manifest
    from neo_edge_calibration.quality.data import QualityData
    from neo_edge_calibration.quality.report import QualityReport


def measure_and_keep(
    bundle: Bundle,
    variants: Sequence[str],
    reference: str,
    data: QualityData,
    *,
    threads: int | None = None,
    processes: int = 1,
) -> dict[str, QualityReport]:
    """`measure_variants`, whose reports then stand in the manifest in place of earlier ones.

    Each variant is judged by its own target, see `record.target_of`. The bundle is being updated from the beginning,
    so that nothing else replaces a variant while it is measured; whatever ends it early, the bundle is as it was.

    Raises:
        BundleError: there is no such variant, or the bundle cannot be updated, or is being updated.
        BundleCorruptError: files of a variant are not those that the manifest names.
        InputError, SessionClosedError: as `measure_quality`.
    """
    with BundleUpdate(bundle, overwrite=True) as update:
        held = Bundle(bundle.root, update.manifest)
        for name in (reference, *variants):
            require_sound_variant(held, name)
        reports = measure_variants(held, variants, reference, data, threads=threads, processes=processes)
        update.commit(lambda manifest: _with_reports(manifest, reports))
    return reports


def _with_reports(manifest: Manifest, reports: Mapping[str, QualityReport]) -> Manifest:
    variants = dict(manifest.variants)
    for name, report in reports.items():
        variants[name] = replace(variants[name], quality=measured_quality(report, variants[name].quality))
    return replace(manifest, variants=variants)
