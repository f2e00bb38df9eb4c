"""Runs a bundle's float variant on prompts and adds what its activations are like to the bundle."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neo_edge.bundle import Bundle, open_bundle, require_sound_variant
from neo_edge.bundle_update import BundleUpdate
from neo_edge.bundle_writer import cure_of
from neo_edge.errors import (
    BundleError,
    CalibrationError,
    InputError,
    StaleCalibrationError,
    StatisticsError,
)
from neo_edge.manifest import Calibration, Manifest
from neo_edge.progress import progress
from neo_edge.shown import shown
from neo_edge_calibration.clipping import METHODS, Method
from neo_edge_calibration.observation.collecting import MIN_SAMPLES, collect, token_limit
from neo_edge_calibration.observation.encoding import Encoder
from neo_edge_calibration.observation.gathering import Gathering
from neo_edge_calibration.observation.run_state import RunState
from neo_edge_calibration.sources.conversation import Prompt, PromptSource, source_of
from neo_edge_calibration.statistics import (
    CalibrationStatistics,
    GroupStatistics,
    checkpoint_digest,
    graph_digest,
    load_statistics,
    save_statistics,
)
from neo_edge_runtime.ort_backend import runnable_variants
from neo_edge_runtime.processors import usable_physical_cores

DEFAULT_SAMPLES = 128
FEW_SAMPLES = 32  # below, a warning
_FLOAT_PRECISIONS = ("fp32", "fp16")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_THREADS = 64


@dataclass(frozen=True)
class CalibrationResult:
    """What became of a calibration."""

    bundle: Bundle  # as it is now
    name: str  # under which `load_statistics` finds the statistics
    statistics: CalibrationStatistics
    reused: bool  # it was there already, of the same data, options and graphs; nothing ran
    skipped: tuple[str, ...]  # samples that could not be used: name and reason
    warnings: tuple[str, ...]  # what makes the statistics worth less than they could be


def calibrate(
    bundle: Bundle | str | os.PathLike[str],
    prompts: Iterable[Prompt] | PromptSource,
    *,
    name: str = "default",
    samples: int = DEFAULT_SAMPLES,
    method: Method = "max",
    variant: str | None = None,
    protocol: str = "edge",
    threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> CalibrationResult:
    """Gathers activation statistics and writes them to `calibration/<name>.safetensors` of the bundle.

    All samples go through one layer before the next, so memory holds one layer. A run that was killed is taken up
    where it was when it is started again with the same data and options.

    Args:
        bundle: an opened bundle, or its directory.
        prompts: conversations, questions or requests with their pictures; the first `samples` that can be used are.
        name: letters, digits, dot, dash and underscore.
        samples: how many prompts, 8 or more.
        method: how `GroupStatistics.range` clips unless told otherwise.
        variant: one of float precision; None: `fp32` if there is such a one, else `fp16`.
        protocol: system prompt and picture sizes.
        threads: of each operator; None: the physical cores.
        seed: draws the rows that are kept.
        overwrite: whether statistics of that name from other data or options may be replaced.

    Raises:
        CalibrationDataError: too few usable prompts, or no picture among them for a model that sees.
        StatisticsError: NaN, infinite or constant activations.
        CalibrationError: the variant is no float one, the name is taken, or another process does the same.
        BundleError: the bundle cannot be read or written.
        BundleCorruptError: files of the variant are not those that the manifest names.
        InputError: an argument is out of range.
        BackendError, MissingExtraError: onnxruntime or onnx is missing or failed.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(str(bundle))
    _check(name, samples, method, threads, seed)
    chosen = _float_variant(opened, variant)
    source = prompts if isinstance(prompts, PromptSource) else source_of(prompts)
    encoder = Encoder(opened, protocol)
    try:
        with RunState(opened) as state:
            found = collect(source, encoder, state.directory, samples, token_limit(opened, chosen))
            warnings = _warnings(found.count, samples)
            wanted = CalibrationStatistics(
                groups={},
                method=method,
                samples=found.count,
                variant=chosen,
                source=source.description,
                data_digest=hashlib.sha256(f"{found.digest} {seed}".encode()).hexdigest(),
                checkpoint_digest=checkpoint_digest(opened),
                graph_digest=graph_digest(opened, chosen),
            )
            there = _existing(opened, name, wanted, overwrite=overwrite)
            if there is not None:
                state.finished = True
                state.clear_others()
                return CalibrationResult(opened, name, there, True, found.skipped, warnings)
            # The statistics will say that they are of these very graphs.
            require_sound_variant(opened, chosen)
            count = threads or usable_physical_cores()
            state.settle(wanted, count)
            groups = _gather(opened, encoder, state.directory, wanted, count, seed)
            statistics = replace(wanted, groups=groups)
            state.gathered = True
            updated = _write(opened, name, statistics)
            state.finished = True
            return CalibrationResult(updated, name, statistics, False, found.skipped, warnings)
    except OSError as error:
        raise BundleError(
            f"the bundle {opened.root} cannot be calibrated: {error}; it is as it was: "
            f"{cure_of(error) or 'look at what the system says'}"
        ) from error


def _check(name: str, samples: int, method: str, threads: int | None, seed: int) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the calibration's name is {name!r}: use up to 64 letters, digits, dots, dashes and underscores, a letter "
            "or a digit first"
        )
    if samples < MIN_SAMPLES:
        raise InputError(f"samples is {samples}; at least {MIN_SAMPLES} are needed, and 128 are usual")
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}: use one of {', '.join(METHODS)}")
    most = max(_MAX_THREADS, os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise InputError(
            f"threads is {shown(threads)}; it must be 1 to {most}, or None for the physical cores"
        )
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed is {seed}; it must be a whole number from 0 to 2^63 - 1")


def _float_variant(bundle: Bundle, name: str | None) -> str:
    if name is not None:
        found = bundle.variant(name)
        if found.precision not in _FLOAT_PRECISIONS:
            raise CalibrationError(
                f"the variant {name!r} is of precision {found.precision}; calibration watches a float one: choose "
                f"{_or(_floats(bundle)) or 'a bundle that has one'}"
            )
        return name
    runnable = [name for name in _floats(bundle) if name in runnable_variants(bundle)]
    if not runnable:
        raise CalibrationError(
            f"the bundle {bundle.root} has no float variant that the installed onnxruntime can run (it has "
            f"{', '.join(bundle.manifest.variants) or 'none'}): export with --precision fp32"
        )
    return min(runnable, key=lambda name: _FLOAT_PRECISIONS.index(bundle.variant(name).precision))


def _floats(bundle: Bundle) -> list[str]:
    return [
        name for name, variant in bundle.manifest.variants.items() if variant.precision in _FLOAT_PRECISIONS
    ]


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)


def _warnings(count: int, asked: int) -> tuple[str, ...]:
    found = []
    if count < asked:
        found.append(f"{asked} samples were asked for, and there are {count}")
    if count < FEW_SAMPLES:
        found.append(f"{count} samples are few: ranges may be too narrow; 128 are usual")
    return tuple(found)


def _existing(
    bundle: Bundle, name: str, wanted: CalibrationStatistics, *, overwrite: bool
) -> CalibrationStatistics | None:
    """The statistics of that name when they are what would be gathered; what cannot be used is as good as none."""
    if name not in bundle.manifest.calibrations:
        return None
    try:
        there = load_statistics(bundle, name)
    except (StaleCalibrationError, StatisticsError):
        return None
    if {**vars(there), "groups": None} == {**vars(wanted), "groups": None}:
        return there
    if not overwrite:
        raise CalibrationError(
            f"the bundle {bundle.root} has a calibration {name!r} of other data or options ({there.samples} samples, "
            f"{there.source}, {there.method}): choose another name, or pass --overwrite "
            "(overwrite=True)"
        )
    return None


def _gather(
    bundle: Bundle, encoder: Encoder, directory: Path, wanted: CalibrationStatistics, threads: int, seed: int
) -> dict[str, GroupStatistics]:
    gathering = Gathering(bundle, wanted.variant, encoder, directory, threads=threads, seed=seed)
    free = shutil.disk_usage(directory).free
    if gathering.scratch_bytes > free:
        raise CalibrationError(
            f"the hidden states of {wanted.samples} samples need {gathering.scratch_bytes / 1e6:.1f} MB and the disk "
            f"of {bundle.root} has {free / 1e6:.1f} MB free: free disk space, or take fewer samples"
        )
    with progress(wanted.samples * gathering.steps, "calibrating", "samples x layers") as bar:
        groups = gathering.run(bar.update)
    return {name: replace(group, method=wanted.method) for name, group in groups.items()}


def _write(bundle: Bundle, name: str, statistics: CalibrationStatistics) -> Bundle:
    # Whether the name may be taken was decided when the statistics there were looked at.
    with BundleUpdate(bundle, overwrite=True) as update:
        taken, number = update.manifest.files, 1
        file = f"calibration/{name}.safetensors"
        while file in taken:
            number += 1
            file = f"calibration/{name}-{number}.safetensors"
        path = update.directory / file
        path.parent.mkdir(exist_ok=True)
        save_statistics(statistics, path)
        entry = Calibration(
            file, statistics.variant, statistics.method, statistics.samples, statistics.source
        )

        def change(manifest: Manifest) -> Manifest:
            return replace(manifest, calibrations={**manifest.calibrations, name: entry})

        return update.commit(change)
