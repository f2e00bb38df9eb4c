"""One graph to one serialized engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neo_edge.errors import EngineBuildError
from neo_edge_export.tensorrt import builder_api as api
from neo_edge_export.tensorrt.build_progress import monitored
from neo_edge_export.tensorrt.cancellation import Cancellation, ctrl_c_waits
from neo_edge_export.tensorrt.compute_capability import set_target
from neo_edge_export.tensorrt.installed import Installed
from neo_edge_export.tensorrt.layer_listing import NetworkListing, list_network
from neo_edge_export.tensorrt.parsing import parse_graph
from neo_edge_export.tensorrt.shape_ranges import ShapeRange
from neo_edge_runtime.tensorrt.tensorrt_log import TensorRtLog


@dataclass(frozen=True)
class BuildOptions:
    """What both engines of a set are built with."""

    compute_capability: str  # digits, such as 86
    workspace_bytes: int | None  # most scratch of one layer, and a fused graph is one; None: no limit
    device_is_here: bool  # whether the GPU that it is for is in this machine
    timing_caches: Sequence[bytes] = ()  # of earlier builds for the same version and GPU


@dataclass(frozen=True)
class Plan:
    """A serialized engine, and what is known of it."""

    buffer: api.IHostMemory
    network: NetworkListing
    engine: dict[str, object] | None  # the inspector's words; None where no GPU was there to load it
    timing_cache: bytes | None


def build_plan(
    installed: Installed, graph: Path, ranges: Sequence[ShapeRange], options: BuildOptions
) -> Plan:
    """Parses a graph and builds it, strongly typed, with one optimization profile for each range.

    Args:
        installed: the TensorRT to build with; TensorRT proper (not RTX) must have a driver.
        graph: an ONNX file beside its weights.
        ranges: sizes of the graph's named dimensions.
        options: for whom.

    Raises:
        EngineBuildError: TensorRT does not take the graph, or builds no engine.
        KeyboardInterrupt: Ctrl-C; the build was ended.
    """
    with ctrl_c_waits() as cancellation:
        return _build(installed, graph, ranges, options, cancellation)


def _build(
    installed: Installed,
    graph: Path,
    ranges: Sequence[ShapeRange],
    options: BuildOptions,
    cancellation: Cancellation,
) -> Plan:
    log = TensorRtLog(installed.module)
    builder = installed.module.Builder(log.logger)
    network = parse_graph(installed, builder, graph, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = installed.module.ProfilingVerbosity.DETAILED
    config.clear_flag(
        installed.module.BuilderFlag.TF32
    )  # on by default; products of float32 are whole, as on the CPU
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(installed.module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    set_target(installed, config, options.compute_capability)
    for sizes in ranges:
        config.add_optimization_profile(_profile(builder, network, sizes))
    cache = _start_timing_cache(installed, config, options.timing_caches)
    progress = (
        monitored(installed.module, config, f"building {graph.stem}", cancellation)
        if installed.has_progress_monitor
        else contextlib.nullcontext()
    )
    with progress:
        buffer = builder.build_serialized_network(network, config)
    if buffer is None:
        raise EngineBuildError(
            f"{installed.backend} {installed.version} built no engine of {graph.parent.name}/{graph.name} for compute "
            f"capability {options.compute_capability}:\n{log.text}\n"
            "smaller --max-context, --max-chunk or --max-batch need less memory; without --workspace there is no limit"
        )
    engine = _inspected(installed, buffer, log) if options.device_is_here else None
    return Plan(buffer, list_network(network), engine, None if cache is None else bytes(cache.serialize()))


def _profile(
    builder: api.Builder, network: api.INetworkDefinition, sizes: ShapeRange
) -> api.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        port = network.get_input(index)
        # A number stands for a fixed dimension, -1 for a named one.
        names = [port.get_dimension_name(axis) for axis in range(len(port.shape))]
        least, usual, most = (
            [table[name] if size < 0 else size for name, size in zip(names, port.shape, strict=True)]
            for table in (sizes.least, sizes.usual, sizes.most)
        )
        profile.set_shape(port.name, least, usual, most)
    return profile


def _start_timing_cache(
    installed: Installed, config: api.IBuilderConfig, earlier: Sequence[bytes]
) -> api.ITimingCache | None:
    """One that starts with what earlier builds measured; what does not match is left out."""
    if not installed.has_timing_cache:
        return None
    cache = config.create_timing_cache(b"")
    for serialized in earlier:
        cache.combine(config.create_timing_cache(serialized), True)
    config.set_timing_cache(cache, False)
    return config.get_timing_cache()


def _inspected(installed: Installed, buffer: api.IHostMemory, log: TensorRtLog) -> dict[str, object] | None:
    """What TensorRT's engine inspector says: the fused layers that will run, and their tactics.

    Only where a driver is: without one, deserializing crashes. The plan is our own, from a moment ago.
    """
    runtime = installed.module.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(buffer)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(
        installed.module.LayerInformationFormat.JSON
    )
    found: dict[str, object] = json.loads(text)
    return found
