"""Fills the prepacked cache, and opens what is in it.

ONNX Runtime writes the optimized graph, its weights and their packed forms. When it loads that, it packs each weight
once more and, where the digest is the same, maps the packed form from the file instead of keeping its own. A quantized
decoder gets kernels of our own instead where they can be had (`cpu/`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from neo_edge.bundle import find_faults
from neo_edge.errors import BundleCorruptError, CacheError, InputError, MemoryBudgetError
from neo_edge.extras import require
from neo_edge.progress import progress
from neo_edge_runtime.cpu.build import add_decoder, require_tools
from neo_edge_runtime.cpu.compiling import NoKernels, require_processor, sources_digest
from neo_edge_runtime.graph_check import require_decoder_graph, require_vision_graph
from neo_edge_runtime.memory import available_memory_bytes
from neo_edge_runtime.ort_memory import graph_files, prepacked_file_bytes, private_weight_bytes
from neo_edge_runtime.ort_session import open_session, ort_errors, session_options
from neo_edge_runtime.prepacked import GRAPHS, PrepackedCache, PrepackedVariant, mark_used
from neo_edge_runtime.prepacked_key import PrepackedKey, prepacked_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from neo_edge.bundle import Bundle
    from neo_edge.manifest import Variant

PrepackedMode = Literal["auto", "build", "off"]
WAIT_S = 600.0  # for another process that fills the cache
_INLINE_BYTES = 1024  # smaller weights stay in the graph's file
_ELSEWHERE = "set NEO_EDGE_CACHE_DIR to a directory that has room and can be written"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filled:
    """An entry, and whether it was made just now."""

    entry: PrepackedVariant
    built: bool
    without_kernels: str = ""  # why a quantized decoder is left to ONNX Runtime's kernels


def prepacked_variant(
    ort: ModuleType, bundle: Bundle, variant_name: str, mode: PrepackedMode
) -> PrepackedVariant | None:
    """What `OrtBackend` shall load a variant from; None: the bundle.

    Raises:
        InputError: there is no such mode.
        CacheError: mode `build`, and the cache cannot be filled.
    """
    if mode == "build":
        return build_prepacked(bundle, variant_name)
    if mode == "off":
        return None
    if mode != "auto":
        raise InputError(f"prepacked is {mode!r}; it must be {', '.join(map(repr, get_args(PrepackedMode)))}")
    found = find_prepacked(ort, bundle, variant_name)
    if found is not None:
        mark_used(found)
    return found


def find_prepacked(ort: ModuleType, bundle: Bundle, variant_name: str) -> PrepackedVariant | None:
    """The variant's entry, if there is a sound one; what is wrong with another is logged."""
    cache = PrepackedCache()
    try:
        for key in _keys(ort, bundle, variant_name):
            if not all(key.graphs.values()):
                return None  # the bundle is being written: its files have no digests yet
            if (found := cache.find(key.name)) is not None:
                return found
    except CacheError as error:
        _log.warning("%s; the bundle is loaded instead", error)
    return None


def build_prepacked(
    bundle: Bundle, variant_name: str, *, verify: bool = False, wait_s: float = WAIT_S
) -> PrepackedVariant:
    """The variant's entry, be it one without kernels of our own; where none is sound, what `fill_cache` makes."""
    ort = require("onnxruntime", extra="cpu")
    found = _found(PrepackedCache(), _keys(ort, bundle, variant_name), verify=verify)
    if found is None:
        return fill_cache(bundle, variant_name, verify=verify, wait_s=wait_s).entry
    mark_used(found)
    return found


def fill_cache(
    bundle: Bundle, variant_name: str, *, verify: bool = False, wait_s: float = WAIT_S, quiet: bool = True
) -> Filled:
    """The variant's best entry in the cache, made where it is missing or damaged; a lesser one is removed then.

    Args:
        bundle: an opened bundle; the files that go in are compared with their digests.
        variant_name: one of its variants, which the installed onnxruntime can run.
        verify: whether to read an entry that is there, too, and build it anew when it was altered.
        wait_s: most seconds to wait for another process that fills the cache.
        quiet: no progress is shown.

    Raises:
        BundleError: no such variant, or its files are damaged.
        MissingExtraError: onnxruntime is not installed.
        MemoryBudgetError: the weights are larger than the free memory.
        CacheError: the cache cannot be written or trusted, or onnxruntime fails to fill it.
    """
    ort = require("onnxruntime", extra="cpu")
    cache, why_not = PrepackedCache(), ""
    try:
        with cache.locked(wait_s):
            *with_kernels, plain = _keys(ort, bundle, variant_name)
            for key in with_kernels:
                try:
                    best = _filled(ort, bundle, variant_name, cache, key, verify=verify, quiet=quiet)
                except NoKernels as error:
                    why_not = str(error)
                    _log.info("%s of %s gets no kernels of our own: %s", variant_name, bundle.root, error)
                else:
                    cache.remove(plain.name)
                    return best
            there = _filled(ort, bundle, variant_name, cache, plain, verify=verify, quiet=quiet)
            return replace(there, without_kernels=why_not)
    except OSError as error:
        raise CacheError(
            f"the cache {cache.folder} cannot be written: {error}; nothing was left there: {_ELSEWHERE}"
        ) from error


def open_prepacked(
    ort: ModuleType, bundle: Bundle, variant: Variant, entry: PrepackedVariant, *, threads: int
) -> list[Any]:  # onnxruntime has no types
    """The graphs of an entry: vision, and the decoder unless it has kernels of our own.

    Raises:
        CacheError: onnxruntime refuses them, or they are not what the manifest describes.
    """
    return _open(ort, bundle, variant, entry.folder, threads, GRAPHS[:1] if entry.kernels else GRAPHS)


def _keys(ort: ModuleType, bundle: Bundle, variant_name: str) -> list[PrepackedKey]:
    """What an entry may be found under, the best first, the one that every machine can fill last."""
    plain = prepacked_key(ort, bundle, variant_name)
    if not _quantized(bundle.variant(variant_name)):
        return [plain]
    return [prepacked_key(ort, bundle, variant_name, kernels=sources_digest()), plain]


def _quantized(variant: Variant) -> bool:
    """Whether the decoder may be one that kernels of our own are for."""
    return (
        variant.precision in ("int8", "int4") and variant.ops == "modern" and variant.cache_dtype == "float32"
    )


def _filled(
    ort: ModuleType,
    bundle: Bundle,
    variant_name: str,
    cache: PrepackedCache,
    key: PrepackedKey,
    *,
    verify: bool,
    quiet: bool,
) -> Filled:
    """The entry of a key, in a cache that is locked; raises `NoKernels` where the key wants some."""
    there = _sound(cache, key, verify=verify)
    if there is not None:
        mark_used(there)
        return Filled(there, built=False)
    if key.kernels:  # before the bundle is read as a whole
        require_processor(key.surroundings.architecture, key.surroundings.instructions)
        require_tools()
    variant = bundle.variant(variant_name)
    _require_whole(bundle, variant)
    _require_room(cache, bundle, variant, kernels=bool(key.kernels))
    written = cache.new_folder()
    try:
        _write(ort, bundle, variant, written, kernels=bool(key.kernels), quiet=quiet)
        root = os.path.abspath(bundle.root)
        entry = cache.commit(written, key.name, bundle=root, variant=variant_name, key=key.to_dict())
        return Filled(entry, built=True)
    finally:
        shutil.rmtree(written, ignore_errors=True)  # after a commit it has another name


def _found(cache: PrepackedCache, keys: Sequence[PrepackedKey], *, verify: bool) -> PrepackedVariant | None:
    """The first entry that is sound; what is wrong with another one is for those to say who build it anew."""
    for key in keys:
        with contextlib.suppress(CacheError):
            there = cache.find(key.name)
            if there is not None and not (verify and there.digest_faults()):
                return there
    return None


def _sound(cache: PrepackedCache, key: PrepackedKey, *, verify: bool) -> PrepackedVariant | None:
    try:
        there = cache.find(key.name)
        faults = there.digest_faults() if there is not None and verify else []
        if faults:
            raise CacheError(f"{cache.folder / key.name} is damaged ({'; '.join(faults)})")
    except CacheError as error:
        _log.warning("%s; it is built anew", error)
        return None
    return there


def _require_whole(bundle: Bundle, variant: Variant) -> None:
    """A damaged bundle must not get into the cache under the digests of a sound one."""
    files = graph_files(bundle.manifest, variant)
    faults = find_faults(replace(bundle, manifest=replace(bundle.manifest, files=files)), sha256=True)
    if faults:
        raise BundleCorruptError(
            f"the bundle {bundle.root} is damaged: {'; '.join(faults)}. Copy or export it again"
        )


def _require_room(cache: PrepackedCache, bundle: Bundle, variant: Variant, *, kernels: bool) -> None:
    needed = prepacked_file_bytes(bundle.manifest, variant, kernels=kernels)
    free = shutil.disk_usage(cache.folder).free
    if needed > free:
        raise CacheError(
            f"{cache.folder} needs about {needed / 1e6:.1f} MB and its disk has {free / 1e6:.1f} MB free: {_ELSEWHERE}"
        )
    memory, available = private_weight_bytes(bundle.manifest, variant), available_memory_bytes()
    if available is not None and memory > available:
        raise MemoryBudgetError(
            f"prepacking {bundle.root} needs {memory / 2**20:.1f} MiB of memory and {available / 2**20:.1f} MiB are "
            "free: free memory, or do it while nothing else runs"
        )


def _write(
    ort: ModuleType, bundle: Bundle, variant: Variant, folder: Path, *, kernels: bool, quiet: bool
) -> None:
    def write_vision() -> None:
        _write_graph(ort, bundle, variant.vision, folder / GRAPHS[0])

    def write_decoder() -> None:
        if kernels:
            add_decoder(ort, bundle, variant, folder)
        else:
            _write_graph(ort, bundle, variant.decoder, folder / GRAPHS[1])

    steps = (write_vision, write_decoder)
    for write in steps if quiet else progress(steps, "prepacking", "graphs"):
        write()
    _open(ort, bundle, variant, folder, threads=1, names=GRAPHS[:1] if kernels else GRAPHS)


def _write_graph(ort: ModuleType, bundle: Bundle, relative: str, path: Path) -> None:
    options = session_options(ort, threads=1)
    options.log_severity_level = 4  # it would print its own failure to write
    options.optimized_model_filepath = str(path)
    for entry, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", f"{path.name}.data"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", str(_INLINE_BYTES)),
    ):
        options.add_session_config_entry(entry, value)
    try:
        open_session(ort, bundle.path(relative), options)
    except ort_errors(ort) as error:
        raise CacheError(
            f"onnxruntime {ort.__version__} cannot prepack {relative} of {bundle.root} into {path.parent.parent} "
            f"({str(error).strip()}); nothing was left there: {_ELSEWHERE}"
        ) from error


def _open(
    ort: ModuleType, bundle: Bundle, variant: Variant, folder: Path, threads: int, names: Sequence[str]
) -> list[Any]:
    sessions, config = [], bundle.manifest.model
    refusals: tuple[type[Exception], ...] = (*ort_errors(ort), BundleCorruptError)
    for name in names:
        options = session_options(ort, threads)
        # It is optimized already; and only weights that stay as they are find their packed form.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = open_session(ort, folder / name, options)
            require_graph = require_vision_graph if name == GRAPHS[0] else require_decoder_graph
            require_graph(session, config, variant)
        except refusals as error:
            raise CacheError(
                f"onnxruntime {ort.__version__} cannot load {name} of {folder} ({error}): run `neo-edge prepack "
                "--clear`, then build it anew"
            ) from error
        sessions.append(session)
    return sessions
