"""Measures variants of a bundle against a reference."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from neo_edge.errors import InputError
from neo_edge.extras import require
from neo_edge.progress import progress
from neo_edge_calibration.quality.blocks import ReferenceAnswers, ask_here, ask_in_processes
from neo_edge_calibration.quality.record import target_of
from neo_edge_calibration.quality.report import (
    KL_EDGES,
    FamilyQuality,
    QualityReport,
    TokenQuality,
    VariantBytes,
)
from neo_edge_runtime.bench.device import device_lines
from neo_edge_runtime.prepacked_build import find_prepacked
from neo_edge_runtime.processors import usable_physical_cores

if TYPE_CHECKING:
    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant
    from neo_edge.progress import Progress
    from neo_edge_calibration.quality.comparison import Comparison
    from neo_edge_calibration.quality.data import QualityData

_MOST_PROCESSES = 256
_TELLING = 100  # questions of a family in a row: fewer tell little


def measure_quality(
    bundle: Bundle,
    variant: str,
    reference: str,
    data: QualityData,
    *,
    threads: int | None = None,
    processes: int = 1,
    target_drop: float | None = None,
    layer_snr_db: Mapping[str, float] | None = None,
    provenance: Mapping[str, str] | None = None,
    reference_answers: ReferenceAnswers | None = None,
) -> QualityReport:
    """The quality of one variant beside a reference, on the same questions.

    Both answer every question greedily. Then the reference's own answer is fed to both, token by token, and their
    probabilities are compared: what the reference says is what users have now, and needs nobody to write answers in
    the model's own manner. Perplexity is that of the true answers.

    Args:
        bundle: an opened bundle, or a preview of an update.
        variant: what is measured.
        reference: what it is measured against; a float32 variant.
        data: questions that calibration never saw.
        threads: of each process; None: the physical cores, shared among them.
        processes: that ask blocks of questions at the same time; each loads both variants. The result does not depend
            on it. They start the caller's `__main__` again, which must be a module that may be imported.
        target_drop: most accuracy that may be lost, a share; None: the variant's own, see
            `record.target_of`.
        layer_snr_db: signal-to-noise of each weight, by name; None: what the manifest has.
        provenance: more rows for the report.
        reference_answers: of earlier measurements with the same data, or empty ones for later measurements.

    Raises:
        BundleError: there is no such variant.
        InputError: an argument is out of range, or a question cannot be asked.
        SessionClosedError: a variant gives logits that are not finite.
    """
    return measure_variants(
        bundle,
        [variant],
        reference,
        data,
        threads=threads,
        processes=processes,
        target_drop=target_drop,
        layer_snr_db=None if layer_snr_db is None else {variant: layer_snr_db},
        provenance=provenance,
        reference_answers=reference_answers,
    )[variant]


def measure_variants(
    bundle: Bundle,
    variants: Sequence[str],
    reference: str,
    data: QualityData,
    *,
    threads: int | None = None,
    processes: int = 1,
    target_drop: float | None = None,
    layer_snr_db: Mapping[str, Mapping[str, float]] | None = None,
    provenance: Mapping[str, str] | None = None,
    reference_answers: ReferenceAnswers | None = None,
) -> dict[str, QualityReport]:
    """`measure_quality` of several variants in one pass, in which the reference answers once; by variant."""
    for name in (reference, *variants):
        bundle.variant(name)
    if reference in variants or not variants or len(set(variants)) < len(variants):
        raise InputError(
            f"{', '.join(variants) or 'nothing'} cannot be measured against {reference}: name other variants, each once"
        )
    if not 1 <= processes <= _MOST_PROCESSES:
        raise InputError(f"processes is {processes}; it must be 1 to {_MOST_PROCESSES}")
    if target_drop is not None and not 0 < target_drop <= 1:
        raise InputError(
            f"target_drop is {target_drop}; it is a share, above 0 and at most 1, such as 0.01 for a point"
        )
    require("onnxruntime", extra="cpu")  # here, where the error can be raised whole
    if threads is None:
        threads = max(1, usable_physical_cores() // processes)
    known = reference_answers if reference_answers is not None else ReferenceAnswers()
    known.begin((variant_digest(bundle, reference), data.source, len(data.questions)))
    asked = [reference, *variants]
    if processes == 1:
        blocks = ask_here(bundle, asked, data.questions, known, threads)
    else:
        blocks = ask_in_processes(bundle, asked, data.questions, known, threads, processes)
    comparisons: list[Comparison] = []
    began_s = time.monotonic()
    with progress(len(data.questions), "measuring quality", "questions") as bar:
        for block in blocks:
            for one in block:
                if comparisons and comparisons[-1].family != one.family:
                    _tell(bar, comparisons, variants, time.monotonic() - began_s)
                comparisons.append(one)
            bar.update(len(block))
    known.keep(comparisons)
    rows = provenance_rows(bundle, (reference, *variants), threads)
    return {
        name: QualityReport(
            variant=name,
            reference=reference,
            precision=bundle.variant(name).precision,
            target_drop=target_of(bundle.variant(name)) if target_drop is None else target_drop,
            families=_families(comparisons, number),
            tokens=_tokens(comparisons, number),
            size=variant_bytes(bundle, name),
            reference_size=variant_bytes(bundle, reference),
            layer_snr_db=snr[name]
            if name in (snr := layer_snr_db or {})
            else _stored_snr(bundle.variant(name)),
            data=data.source,
            data_digest=hashlib.sha256(b"".join(one.digest for one in comparisons)).hexdigest(),
            provenance={**made_rows(bundle.variant(name)), **(provenance or {}), **rows},
        )
        for number, name in enumerate(variants)
    }


def variant_bytes(bundle: Bundle, name: str) -> VariantBytes:
    """What the files of a variant take; those that it shares with others are counted."""
    variant, files = bundle.variant(name), bundle.manifest.files
    graphs = {variant.vision, variant.decoder}
    beside = {path for path in files if any(path.startswith(f"{graph}.") for graph in graphs)}
    tables = set(variant.referenced_files) - graphs
    graph_bytes, weight_bytes, table_bytes = (
        sum(files[path].size_bytes for path in paths) for paths in (graphs, beside, tables)
    )
    return VariantBytes(graph_bytes, weight_bytes, table_bytes)


def provenance_rows(bundle: Bundle, variants: Sequence[str], threads: int) -> dict[str, str]:
    """What was measured, with what, on what and when."""
    machine, software, *_ = device_lines(threads)
    ort = require("onnxruntime", extra="cpu")
    entries = {name: find_prepacked(ort, bundle, name) for name in variants}
    kernels = [name for name, entry in entries.items() if entry is not None and entry.kernels]
    checkpoint = bundle.manifest.provenance.get("checkpoint_sha256")
    return {
        **{f"files of {name}": variant_digest(bundle, name) for name in variants},
        **({"checkpoint": str(checkpoint)} if checkpoint else {}),
        **({"kernels of our own": ", ".join(kernels)} if kernels else {}),
        "made by": f"{bundle.manifest.producer.name} {bundle.manifest.producer.version}",
        "machine": machine,
        "software": software,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def made_rows(variant: Variant) -> dict[str, str]:
    """How a quantized variant came to be, from its manifest; nothing for a variant that an export wrote."""
    made = variant.quality.get("made")
    if not isinstance(made, dict):
        return {}
    recipe, source, calibration = (made.get(name) for name in ("recipe", "source", "calibration"))
    rows = {"recipe": str(recipe["name"])} if isinstance(recipe, dict) and "name" in recipe else {}
    if isinstance(source, str):
        rows["made from"] = source
    if isinstance(calibration, dict):
        rows["calibration"] = ", ".join(
            f"{name.replace('_', ' ')} {found}" for name, found in calibration.items()
        )
    return rows


def variant_digest(bundle: Bundle, name: str) -> str:
    """sha256 over the digests of a variant's files, which tells two builds of a variant apart."""
    variant, files = bundle.variant(name), bundle.manifest.files
    own = sorted(
        path
        for path in files
        if path in variant.referenced_files or path.startswith((f"{variant.vision}.", f"{variant.decoder}."))
    )
    return hashlib.sha256("".join(f"{files[path].sha256} {path}\n" for path in own).encode()).hexdigest()


def _tell(
    bar: Progress[int], comparisons: Sequence[Comparison], variants: Sequence[str], taken_s: float
) -> None:
    """What was found in the family that just ended, so that a run that is cut short was not for nothing."""
    name = comparisons[-1].family
    run = list(takewhile(lambda one: one.family == name, reversed(comparisons)))
    if len(run) < _TELLING:
        return
    found = []
    for number, variant in enumerate(variants):
        (family,) = _families(run, number)
        low, high = family.interval
        found.append(f"{variant} {100 * family.drop:.2f} ({100 * low:.2f} to {100 * high:.2f})")
    bar.note(f"{taken_s / 60:.1f} min: {name}, {len(run)} questions, points lost: {', '.join(found)}")


def _families(comparisons: Sequence[Comparison], number: int) -> tuple[FamilyQuality, ...]:
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for one in comparisons:
        groups.setdefault(one.family, []).append((one.reference.right, one.variants[number].right))
    return tuple(FamilyQuality.counted(name, pairs) for name, pairs in groups.items())


def _tokens(comparisons: Sequence[Comparison], number: int) -> TokenQuality:
    measured = [one.variants[number] for one in comparisons]
    kl = np.concatenate([one.kl for one in measured])
    true_tokens = sum(one.true_tokens for one in comparisons)
    return TokenQuality(
        count=len(kl),
        top1_agreement=sum(one.agreed for one in measured) / len(kl),
        kl_mean=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        kl_histogram=tuple(
            np.bincount(np.searchsorted(KL_EDGES, kl, "right"), minlength=len(KL_EDGES) + 1).tolist()
        ),
        reference_perplexity=_exp(sum(one.reference.surprise for one in comparisons) / true_tokens),
        perplexity=_exp(sum(one.surprise for one in measured) / true_tokens),
    )


def _stored_snr(variant: Variant) -> dict[str, float]:
    """What an earlier measurement wrote into the manifest."""
    stored = variant.quality.get("layer_snr_db")
    if not isinstance(stored, dict):
        return {}
    return {
        name: math.inf if value is None else float(value)
        for name, value in stored.items()
        if value is None or isinstance(value, int | float)
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # float64 ends at e^709
