"""From a float variant to a quantized one of the same bundle: plans, writes, measures, and only then keeps it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from neo_edge.bundle import Bundle, require_sound_variant
from neo_edge.bundle_update import BundleUpdate
from neo_edge.manifest import Manifest, Variant
from neo_edge.progress import progress
from neo_edge_calibration.quality import QualityData, QualityReport, ReferenceAnswers, measure_quality
from neo_edge_calibration.quality.record import lost_families
from neo_edge_export.quantization.group_inputs import GroupInputs, plan_inputs
from neo_edge_export.quantization.kept_layers import finer_rules
from neo_edge_export.quantization.preconditions import (
    checked_name,
    estimated_bytes,
    float_reference,
    float_source,
    require_matches,
    statistics_for,
)
from neo_edge_export.quantization.quality_record import making_record, quality_record, require_quality
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.variant_writer import WrittenVariant, open_graphs, write_variant


@dataclass(frozen=True)
class QuantizeOptions:
    """What to make, and how good it must be."""

    name: str | None = None  # of the variant; None: the recipe's
    source: str | None = None  # float variant to start from; None: the best of the recipe's profile
    calibration: str | None = None  # None: the only one, or `default`, where the recipe needs one
    target_drop: float | None = None  # points: keep sensitive layers finer until it holds; None: the recipe's
    force: bool = False  # write the variant although it loses more than its target
    overwrite: bool = False  # replace a quantized variant of that name


@dataclass(frozen=True)
class Quantized:
    """A variant that the bundle has now."""

    name: str
    variant: Variant
    report: QualityReport | None  # None: it was not measured
    kept: tuple[str, ...]  # products that a target drop kept in higher precision than the recipe says


def quantize(
    bundle: Bundle,
    recipe: Recipe,
    data: QualityData | None,
    options: QuantizeOptions,
    *,
    threads: int | None = None,
    processes: int = 1,
) -> Quantized:
    """Adds a quantized variant to a bundle; the bundle is as it was when anything fails.

    Args:
        bundle: an opened bundle.
        recipe: what becomes of each weight.
        data: questions that calibration never saw; None: the variant is not measured, and says so for ever.
        options: names and targets.
        threads: of the measurement; None: the physical cores.
        processes: that share the measurement's questions.

    Returns:
        The variant and its quality.

    Raises:
        QuantizationError: the bundle lacks what the recipe needs, or the variant loses more than its target.
        BundleError: the bundle cannot be updated, or has such a variant and `overwrite` is not set.
        BundleCorruptError: files of the float variant are not those that the manifest names.
        CalibrationError: the activation statistics are damaged, or of another bundle.
    """
    source = float_source(bundle, recipe, options.source)
    name = checked_name(bundle, options.name or recipe.name, overwrite=options.overwrite)
    keeps = options.target_drop is not None
    statistics = statistics_for(bundle, recipe, options.calibration, needed=keeps)
    require_sound_variant(bundle, source)
    graphs = open_graphs(bundle, source)
    products = [product for graph in graphs.values() for product in graph.products]
    rules = {product.name: recipe.rule(product.name) for product in products}
    require_matches(recipe, rules)
    inputs = plan_inputs(graphs, bundle.manifest.model.decoder, recipe, rules, statistics)
    target = (options.target_drop or recipe.target_drop) / 100
    with BundleUpdate(bundle, overwrite=options.overwrite) as update:
        update.require_space(estimated_bytes(bundle, source, products, rules))
        folder = update.directory / update.fresh_folder(name)
        attempt = _Attempt(
            bundle, source, recipe, inputs, update, name, data, target, threads, processes, ReferenceAnswers()
        )
        written, report = attempt.make(rules, folder.name)
        kept: Mapping[str, LayerRule] = {}
        rounds = 0
        while keeps and report is not None and lost_families(report):
            finer = finer_rules({**rules, **kept}, written.snr_db, recipe.profile, 2**rounds)
            if not finer:
                break
            kept, rounds = {**kept, **finer}, rounds + 1
            written, report = attempt.make({**rules, **kept}, folder.name)
        require_quality(name, report, force=options.force, kept=bool(kept))
        forced = report is not None and bool(lost_families(report))  # else it had been refused
        made = making_record(recipe, source, statistics, inputs, tuple(kept), forced=forced)
        variant = replace(written.variant, quality=quality_record(report, made, written.snr_db))
        update.commit(attempt.change(variant))
    return Quantized(name, variant, report, tuple(kept))


@dataclass(frozen=True)
class _Attempt:
    """What stays the same while rules change."""

    bundle: Bundle
    source: str
    recipe: Recipe
    inputs: GroupInputs
    update: BundleUpdate
    name: str
    data: QualityData | None
    target: float
    threads: int | None
    processes: int
    known: ReferenceAnswers  # the reference need answer only once

    def make(
        self, rules: Mapping[str, LayerRule], folder: str
    ) -> tuple[WrittenVariant, QualityReport | None]:
        """Writes the variant into the update, and measures it there."""
        with progress(len(rules), f"quantizing {self.name}", "weights") as bar:
            written = write_variant(
                self.bundle,
                self.source,
                self.recipe,
                rules,
                self.inputs,
                self.update.directory / folder,
                bar.update,
            )
        if self.data is None:
            return written, None
        preview = self.update.preview(self.change(written.variant))
        report = measure_quality(
            preview,
            self.name,
            float_reference(self.bundle, self.source),
            self.data,
            threads=self.threads,
            processes=self.processes,
            target_drop=self.target,
            layer_snr_db=written.snr_db,
            provenance={"recipe": self.recipe.name, "made from": self.source},
            reference_answers=self.known,
        )
        shutil.rmtree(preview.root, ignore_errors=True)  # its links would keep the files of earlier rounds
        return written, report

    def change(self, variant: Variant) -> Callable[[Manifest], Manifest]:
        """Adds the variant to a manifest."""
        return lambda manifest: replace(manifest, variants={**manifest.variants, self.name: variant})
