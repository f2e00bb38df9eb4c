"""Which of a bundle's engines this machine can run, and why none of them."""

from __future__ import annotations

from dataclasses import replace

from neo_edge.bundle import Bundle
from neo_edge.engine_files import is_stale
from neo_edge.engines import EngineBackend, EngineKey, EngineSet
from neo_edge.errors import EngineError


def choose_engines(
    bundle: Bundle,
    *,
    backend: EngineBackend,
    version: str,
    compute_capability: str,
    driver: str | None,
    variant: str | None = None,
    name: str | None = None,
) -> tuple[EngineSet, EngineKey]:
    """The engines to load, and the key that this machine needs them to have.

    Of several that fit, those with the largest context, then batch, then chunk.

    Args:
        bundle: an opened bundle.
        backend: which TensorRT.
        version: of the installed one.
        compute_capability: of the GPU, digits.
        driver: NVIDIA's version; None: not known.
        variant: of the bundle; None: any that has engines.
        name: of the engines' folder; None: any.

    Raises:
        EngineError: none fits; the message says what is there, what is needed and how to build it.
    """
    if variant is not None:
        bundle.variant(variant)  # raises when there is none of that name
    cure = (
        f"run  neo-edge build {bundle.root} --backend {backend}{f' --variant {variant}' if variant else ''}  on this "
        "machine"
    )
    there = [
        (folder, engines)
        for folder, engines in bundle.manifest.engines.items()
        if engines.key.backend == backend
        and variant in (None, engines.key.variant)
        and name in (None, folder)
    ]
    if not there:
        asked = f" named {name!r}" if name else f" of the variant {variant!r}" if variant else ""
        others = ", ".join(bundle.manifest.engines) or "none"
        raise EngineError(
            f"the bundle {bundle.root} has no {backend} engines{asked} (it has {others}): {cure}"
        )
    fitting, faults = [], []
    for folder, engines in there:
        wanted = replace(
            engines.key,
            version=version,
            compute_capability=compute_capability,
            driver=None if engines.key.driver is None else driver,
        )
        if is_stale(bundle.manifest, engines):
            faults.append(f"{folder} was built from other graphs than the bundle has now")
        elif differences := engines.key.differences(wanted):
            faults.append(f"{folder} is for {', '.join(differences)}")
        else:
            fitting.append((engines, wanted))
    if not fitting:
        raise EngineError(
            f"no {backend} engines of the bundle {bundle.root} fit this machine ({'; '.join(faults)}): {cure}"
        )
    return max(fitting, key=lambda pair: _room(pair[0]))


def _room(engines: EngineSet) -> tuple[int, int, int]:
    limits = engines.key.limits
    return limits.max_context, limits.max_batch, limits.max_chunk
