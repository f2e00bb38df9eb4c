"""Finds a bundle's engines by their key, and hands a plan out only when it is the one that the manifest names."""

from __future__ import annotations

import hashlib
import mmap

from neo_edge.bundle import Bundle
from neo_edge.engines import EngineKey, EnginePart, EngineSet
from neo_edge.errors import EngineError
from neo_edge.file_digest import digest_file
from neo_edge.manifest import Manifest, Variant


def graph_digest(manifest: Manifest, variant: Variant) -> str:
    """sha256 over the digests of everything that engines of the variant are made of.

    Those are the files in its graphs' folders; the token table stays with the host.
    """
    folders = {graph.rpartition("/")[0] for graph in (variant.vision, variant.decoder)}
    total = hashlib.sha256()
    for path, entry in sorted(manifest.files.items()):
        if path.rpartition("/")[0] in folders and path != variant.token_embedding.file:
            total.update(f"{path}\0{entry.sha256}\n".encode())
    return total.hexdigest()


def find_engines(manifest: Manifest, key: EngineKey) -> EngineSet | None:
    """The engines that were built for exactly this."""
    return next((found for found in manifest.engines.values() if found.key == key), None)


def is_stale(manifest: Manifest, engines: EngineSet) -> bool:
    """Whether the variant that the engines were built from is gone or has changed."""
    variant = manifest.variants.get(engines.key.variant)
    return variant is None or graph_digest(manifest, variant) != engines.key.graph_digest


def engine_faults(bundle: Bundle, engines: EngineSet) -> list[str]:
    """What is wrong with the files of the engines, digests included; empty when nothing is."""
    faults = []
    for relative in engines.referenced_files:
        entry, path = bundle.manifest.files[relative], bundle.path(relative)
        if not path.is_file():
            faults.append(f"{relative} is missing")
        elif path.stat().st_size != entry.size_bytes:
            faults.append(f"{relative} has {path.stat().st_size} bytes, the manifest says {entry.size_bytes}")
        elif digest_file(path) != entry.sha256:
            faults.append(f"{relative} was altered: its sha256 differs from the manifest's")
    return faults


def read_plan(bundle: Bundle, engines: EngineSet, part: EnginePart, *, wanted: EngineKey) -> mmap.mmap:
    """The bytes of a plan, mapped and checked.

    A plan is native code: nothing but what this gives may be deserialized, and that only where a driver is.

    Args:
        bundle: the bundle that names the engines.
        engines: one of its sets.
        part: which of its plans.
        wanted: what this machine needs; `driver` None in the engines fits every driver.

    Raises:
        EngineError: the engines are of another bundle, of a variant that has changed, or for something else than
            what is wanted; or the file is missing, truncated or altered.
    """
    if engines not in bundle.manifest.engines.values():
        raise EngineError(
            f"the bundle {bundle.root} does not name these engines ({engines.key.name}): {_cure(wanted)}"
        )
    if is_stale(bundle.manifest, engines):
        raise EngineError(
            f"the engines {engines.key.name} were built from another bundle, or from graphs that have changed since: "
            f"{_cure(wanted)}"
        )
    ignored = {"driver"} if engines.key.driver is None else set()
    differences = [text for text in engines.key.differences(wanted) if text.split(" ")[0] not in ignored]
    if differences:
        raise EngineError(f"the engines were built for {', '.join(differences)}: {_cure(wanted)}")
    return _checked(bundle, engines.plan(part), _cure(wanted))


def _checked(bundle: Bundle, relative: str, cure: str) -> mmap.mmap:
    entry, path = bundle.manifest.files[relative], bundle.path(relative)
    try:
        with path.open("rb") as file:
            plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise EngineError(f"{relative} cannot be read ({error}): {cure}") from error
    if len(plan) != entry.size_bytes:
        size = len(plan)
        plan.close()
        raise EngineError(f"{relative} has {size} bytes, the manifest says {entry.size_bytes}: {cure}")
    # The mapping itself is hashed, so that what was checked is what is deserialized.
    if hashlib.sha256(plan).hexdigest() != entry.sha256:
        plan.close()
        raise EngineError(f"{relative} was altered: its sha256 differs from the manifest's: {cure}")
    return plan


def _cure(wanted: EngineKey) -> str:
    return f"run  neo-edge build BUNDLE --backend {wanted.backend} --variant {wanted.variant}"
