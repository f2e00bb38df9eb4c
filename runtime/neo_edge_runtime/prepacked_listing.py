"""What lies in the prepacked cache, what of it is still of use, and removing the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neo_edge.errors import BrokenPackageError, CacheError, MissingExtraError
from neo_edge.extras import require
from neo_edge.manifest import MANIFEST_FILE
from neo_edge_runtime.cpu.compiling import sources_digest
from neo_edge_runtime.ort_memory import graph_files
from neo_edge_runtime.prepacked_key import FORMAT, Surroundings, surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neo_edge.bundle import Bundle
    from neo_edge_runtime.prepacked import PrepackedCache, PrepackedVariant

_CLEAR_WAIT_S = 30.0


@dataclass(frozen=True)
class Listed:
    """One entry."""

    name: str  # its key
    size_bytes: int
    bundle: str  # where it lay when this was built; empty when the description is damaged
    variant: str
    last_used_s: float  # since the epoch; 0: unknown
    graphs: tuple[str, ...]  # digests, sorted
    damage: str  # empty: none is known
    stale: str  # why it is of no use here; empty: it is

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def listing(cache: PrepackedCache, *, verify: bool = False) -> list[Listed]:
    """All entries; `verify` compares every byte with its digest.

    Raises:
        CacheError: the directory cannot be read.
    """
    now = _surroundings()
    return [_listed(cache, name, now, verify=verify) for name in cache.names()]


def clear(
    cache: PrepackedCache, *, bundle: Bundle | None = None, only_stale: bool = False, verify: bool = False
) -> list[Listed]:
    """Removes entries and gives them.

    Args:
        cache: where.
        bundle: only those of its variants; None: of any.
        only_stale: only those that are damaged or of no use here.
        verify: whether to look for damage in every byte.

    Raises:
        CacheError: the directory cannot be written, or a process fills it at this moment.
    """
    if not cache.folder.exists():
        return []
    try:
        with cache.locked(_CLEAR_WAIT_S):
            gone = [
                one
                for one in listing(cache, verify=verify)
                if (bundle is None or one.graphs in _graphs(bundle))
                and (not only_stale or one.damage or one.stale)
            ]
            for one in gone:
                cache.remove(one.name)
    except OSError as error:
        raise CacheError(
            f"the cache {cache.folder} cannot be changed: {error}: check its permissions"
        ) from error
    return gone


def _listed(cache: PrepackedCache, name: str, now: Surroundings | None, *, verify: bool) -> Listed:
    size, damage = cache.size_bytes(name), ""
    try:
        entry = cache.find(name)
        if entry is not None and verify:
            damage = "; ".join(entry.digest_faults())
    except CacheError as error:
        entry, damage = None, str(error)
    if entry is None:
        return Listed(name, size, "", "", 0.0, (), damage or "it was removed meanwhile", "")
    graphs = entry.key.get("graphs")
    digests = tuple(sorted(map(str, graphs.values()))) if isinstance(graphs, dict) else ()
    return Listed(
        name,
        size,
        entry.bundle,
        entry.variant,
        entry.last_used_s,
        digests,
        damage,
        _stale(entry, now),
    )


def _stale(entry: PrepackedVariant, now: Surroundings | None) -> str:
    key: Mapping[str, object] = entry.key
    if not (Path(entry.bundle) / MANIFEST_FILE).is_file():
        return "the bundle is gone"
    if key.get("format") != FORMAT or key.get("kernels") not in ("", sources_digest()):
        return "another release of neo_edge wrote it"
    if now is None:
        return ""
    wanted = now.to_dict()
    return next(
        (
            f"{name} was {key.get(name)}, and is {value} now"
            for name, value in wanted.items()
            if key.get(name) != value
        ),
        "",
    )


def _graphs(bundle: Bundle) -> set[tuple[str, ...]]:
    """Digests of each variant's graphs."""
    manifest = bundle.manifest
    return {
        tuple(sorted(entry.sha256 for entry in graph_files(manifest, variant).values()))
        for variant in manifest.variants.values()
    }


def _surroundings() -> Surroundings | None:
    """None: onnxruntime is not there to compare with."""
    try:
        return surroundings(require("onnxruntime", extra="cpu"))
    except (MissingExtraError, BrokenPackageError):
        return None
