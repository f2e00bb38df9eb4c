"""Builds the engines of a variant into its bundle, unless they are there already."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from neo_edge.bundle import Bundle, read_bundle, require_sound_variant
from neo_edge.bundle_update import BundleUpdate
from neo_edge.engine_files import engine_faults, find_engines, graph_digest, is_stale
from neo_edge.engines import ENGINES_FOLDER, EngineBackend, EngineKey, EngineLimits, EnginePart, EngineSet
from neo_edge.errors import EngineBuildError
from neo_edge.manifest import Manifest, Variant
from neo_edge_export.tensorrt.build_estimate import BuildEstimate, estimate_build, require_memory
from neo_edge_export.tensorrt.compute_capability import Target, choose_target
from neo_edge_export.tensorrt.installed import Installed, find_tensorrt
from neo_edge_export.tensorrt.plan_building import BuildOptions, Plan, build_plan
from neo_edge_export.tensorrt.shape_ranges import decoder_ranges, vision_ranges
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.nvidia_devices import NvidiaDriver

DEFAULT_CONTEXT, DEFAULT_CHUNK, DEFAULT_BATCH = 4096, 1024, 1  # the chunk: a picture of the `edge` protocol
_LOGITS_ROWS = 16  # of one prefill run; more take more runs
_PARTS: tuple[EnginePart, ...] = ("vision", "decoder")


@dataclass(frozen=True)
class BuildRequest:
    """What `neo-edge build` was asked for."""

    backend: EngineBackend
    variant: str | None = None  # None: the one of that precision
    precision: str = "fp16"
    max_context: int = DEFAULT_CONTEXT  # tokens
    max_chunk: int | None = None  # tokens; None: 1024, or the context where that is shorter
    max_batch: int = DEFAULT_BATCH
    compute_capability: str | None = None  # None: the GPU here
    workspace_bytes: int | None = None  # most scratch of one layer; None: TensorRT's own, all there is
    device_memory_bytes: int | None = None  # of the GPU; None: ask it when it is here
    overwrite: bool = False


@dataclass(frozen=True)
class BuildResult:
    """Engines that are in the bundle now."""

    bundle: Bundle
    name: str  # of their folder in engines/
    engines: EngineSet
    built: bool  # False: they were there
    why: str  # it was built
    why_ops: str  # the variant has its profile of operators
    removed: tuple[str, ...]  # folders of engines that served nothing any more
    estimate: BuildEstimate
    build_s: float


def build_engines(
    path: Path,
    request: BuildRequest,
    *,
    installed: Installed | None = None,
    driver: NvidiaDriver | str | None = None,
) -> BuildResult:
    """Finds or builds the engines of a variant.

    Args:
        path: of the bundle.
        request: for what.
        installed: the TensorRT to build with; None: the installed one.
        driver: NVIDIA's, or why there is none; None: ask it.

    Raises:
        MissingExtraError, BrokenPackageError, BackendError: TensorRT is not there, broken, too old, or has no driver.
        BundleError: the bundle is damaged, read-only, full, or being updated by another process.
        EngineBuildError: TensorRT does not take the graphs, or not for that GPU.
        MemoryBudgetError: the engines would not fit, or building them would not.
    """
    installed = find_tensorrt(request.backend) if installed is None else installed
    bundle = read_bundle(path)
    target = choose_target(installed, request.compute_capability, driver)
    key = _key(bundle, request, installed, target)
    estimate = estimate_build(bundle.manifest, bundle.variant(key.variant), key.limits)
    found = find_engines(bundle.manifest, key)
    why = _why(bundle, found, overwrite=request.overwrite)
    if found is not None and not why:
        return BuildResult(bundle, _folder(found), found, False, "", installed.why_ops, (), estimate, 0.0)
    _require_memory(estimate, request, target)
    started = time.monotonic()
    with BundleUpdate(bundle) as update:
        bundle = Bundle(bundle.root, update.manifest)
        # Another process may have changed the bundle before the update began.
        key = _key(bundle, request, installed, target)
        # An engine's key holds its graphs' digests, so these must be true; the token table stays with the host.
        require_sound_variant(bundle, key.variant, token_table=False)
        update.require_space(estimate.plan_files)
        name = _fresh_name(bundle.manifest, key.name)
        engines = _write_engines(bundle, key, installed, target, update.directory, name)
        removed = tuple(
            other
            for other, there in bundle.manifest.engines.items()
            if there.key == key or is_stale(bundle.manifest, there)
        )
        changed = update.commit(
            lambda manifest: replace(
                manifest,
                engines={
                    **{other: there for other, there in manifest.engines.items() if other not in removed},
                    name: engines,
                },
            )
        )
    return BuildResult(
        bundle=changed,
        name=name,
        engines=engines,
        built=True,
        why=why or "none were there",
        why_ops=installed.why_ops,
        removed=removed,
        estimate=estimate,
        build_s=time.monotonic() - started,
    )


def choose_variant(bundle: Bundle, request: BuildRequest, installed: Installed) -> str:
    """The variant that was named, or the one of the precision, with the operators that this TensorRT takes.

    Raises:
        BundleError: there is no variant of that name.
        EngineBuildError: its operators are of the other profile, or none has that precision.
    """
    variants = bundle.manifest.variants
    there = ", ".join(f"{name} ({variant.precision}, {variant.ops})" for name, variant in variants.items())
    if request.variant is not None:
        ops = bundle.variant(request.variant).ops
        if ops != installed.ops:
            raise EngineBuildError(
                f"the variant {request.variant} has {ops} operators and engines are built from {installed.ops} ones "
                f"({installed.why_ops}); the bundle has {there}: export with --ops {installed.ops}"
            )
        return request.variant
    for name, variant in variants.items():
        if (variant.precision, variant.ops) == (request.precision, installed.ops):
            return name
    how = "neo-edge export" if request.precision in ("fp16", "fp32") else "neo-edge quantize"
    raise EngineBuildError(
        f"no variant of {bundle.root} is {request.precision} with {installed.ops} operators; it has "
        f"{there or 'none'}: make one with {how}, or name one with --variant"
    )


def _key(bundle: Bundle, request: BuildRequest, installed: Installed, target: Target) -> EngineKey:
    variant = choose_variant(bundle, request, installed)
    return EngineKey(
        backend=installed.backend,
        version=installed.version,
        compute_capability=target.compute_capability,
        variant=variant,
        graph_digest=graph_digest(bundle.manifest, bundle.variant(variant)),
        limits=engine_limits(bundle.manifest, request),
        driver=target.driver,
        workspace_bytes=request.workspace_bytes,
    )


def engine_limits(manifest: Manifest, request: BuildRequest) -> EngineLimits:
    """The request's, with what follows from them; a picture that fills a chunk gives the patches."""
    chunk = min(DEFAULT_CHUNK, request.max_context) if request.max_chunk is None else request.max_chunk
    return EngineLimits(
        max_context=request.max_context,
        max_chunk=chunk,
        max_batch=request.max_batch,
        max_logits_rows=max(1, min(_LOGITS_ROWS, chunk)),
        max_patches=chunk * manifest.model.vision.merge_size**2,
    )


def _why(bundle: Bundle, found: EngineSet | None, *, overwrite: bool) -> str:
    """Why engines that are there are built anew; empty when they serve."""
    if found is None:
        return ""
    if overwrite:
        return "asked to overwrite"
    return "; ".join(engine_faults(bundle, found))


def _require_memory(estimate: BuildEstimate, request: BuildRequest, target: Target) -> None:
    device = target.device
    known = None if device is None else device.memory_bytes
    require_memory(
        estimate,
        device_bytes=known if request.device_memory_bytes is None else request.device_memory_bytes,
        here_bytes=available_memory_bytes(),
        shared=device is not None and device.memory_bytes is None,
    )


def _write_engines(
    bundle: Bundle,
    key: EngineKey,
    installed: Installed,
    target: Target,
    staging: Path,
    name: str,
) -> EngineSet:
    folder = f"{ENGINES_FOLDER}/{name}"
    (staging / folder).mkdir(parents=True)
    ranges = {"vision": vision_ranges(key.limits), "decoder": decoder_ranges(key.limits)}
    caches = _timing_caches(bundle, key)
    described: dict[str, object] = {}
    for part in _PARTS:
        options = BuildOptions(key.compute_capability, key.workspace_bytes, target.device is not None, caches)
        graph = bundle.path(_graph(bundle.variant(key.variant), part))
        plan = build_plan(installed, graph, ranges[part], options)
        _write(staging / folder / f"{part}.plan", memoryview(plan.buffer))
        described[part] = _describe(plan)
        caches = caches if plan.timing_cache is None else [plan.timing_cache]
    _write(staging / folder / "layers.json", json.dumps(described, indent=1).encode())
    if installed.has_timing_cache:
        _write(staging / folder / "timing.cache", caches[-1])
    return EngineSet(
        key,
        vision=f"{folder}/vision.plan",
        decoder=f"{folder}/decoder.plan",
        layers=f"{folder}/layers.json",
        timing_cache=f"{folder}/timing.cache" if installed.has_timing_cache else None,
    )


def _describe(plan: Plan) -> dict[str, object]:
    return {"plan_bytes": plan.buffer.nbytes, "network": plan.network.to_json(), "engine": plan.engine}


def _timing_caches(bundle: Bundle, key: EngineKey) -> Sequence[bytes]:
    """What earlier builds for the same TensorRT and GPU measured, where their files are sound."""
    return [
        bundle.path(engines.timing_cache).read_bytes()
        for engines in bundle.manifest.engines.values()
        if engines.timing_cache is not None
        and (engines.key.backend, engines.key.version, engines.key.compute_capability, engines.key.driver)
        == (key.backend, key.version, key.compute_capability, key.driver)
        and not engine_faults(bundle, engines)
    ]


def _graph(variant: Variant, part: EnginePart) -> str:
    return variant.vision if part == "vision" else variant.decoder


def _folder(engines: EngineSet) -> str:
    return PurePosixPath(engines.decoder).parent.name


def _fresh_name(manifest: Manifest, name: str) -> str:
    """Files of a bundle are never written over: engines that are built anew get another folder."""
    number, fresh = 2, name
    while any(path.startswith(f"{ENGINES_FOLDER}/{fresh}/") for path in manifest.files):
        number, fresh = number + 1, f"{name}-{number}"
    return fresh


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
