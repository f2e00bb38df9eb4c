"""What TensorRT engines in a bundle were made of, from what was written down when they were built.

No plan is loaded: that needs the GPU it is for. What TensorRT made of the network is known where a GPU was there at
build time; otherwise only the network itself is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neo_edge.bundle import Bundle, read_bundle
from neo_edge.engine_files import engine_faults, is_stale
from neo_edge.engines import ENGINES_FOLDER, EngineKey, EnginePart, EngineSet
from neo_edge.errors import EngineError
from neo_edge.manifest_fields import JsonValue
from neo_edge_runtime.kv_cache import cache_bytes

_PARTS: tuple[EnginePart, ...] = ("vision", "decoder")
_ITEM_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class PlanReport:
    """One engine."""

    plan_bytes: int
    layers: int  # of the network that TensorRT was given
    output_types: Mapping[str, int]  # these layers by the type that they give
    matrix_products: Mapping[str, int]  # by what both operands are stored as: "INT8 x INT8"
    int8_products: int  # both INT8
    attention: Literal["one operator", "plain operators", "none"]  # plain: TensorRT fuses it, or does not
    engine_layers: int | None  # after fusion; None: no GPU was there to ask


@dataclass(frozen=True)
class EngineReport:
    """Engines of one variant."""

    key: EngineKey
    stale: bool  # its variant has changed or is gone: they are not loaded
    cache_bytes: (
        int  # of the largest context and batch, on the device beside the plans; 0 without the variant
    )
    plans: Mapping[EnginePart, PlanReport]

    @property
    def plan_bytes(self) -> int:
        """Both."""
        return sum(plan.plan_bytes for plan in self.plans.values())


def is_engine_folder(path: Path) -> bool:
    """Whether a path is one of a bundle's engine folders."""
    return path.parent.name == ENGINES_FOLDER and path.is_dir()


def inspect_engine_folder(path: Path) -> dict[str, EngineReport]:
    """The one set of engines in `BUNDLE/engines/NAME`, by its name, its files checked.

    Raises:
        BundleError: there is no bundle around it.
        EngineError: the bundle does not name it, or its files are missing, truncated or altered.
    """
    bundle = read_bundle(path.parents[1])
    engines = bundle.manifest.engines.get(path.name)
    if engines is None:
        names = ", ".join(bundle.manifest.engines) or "none"
        raise EngineError(
            f"the bundle {bundle.root} does not name the engines {path.name}, so they are never loaded; it has "
            f"{names}: run neo-edge build"
        )
    faults = engine_faults(bundle, engines)
    if faults:
        raise EngineError(f"{'; '.join(faults)}: run neo-edge build, which makes these engines anew")
    return {path.name: inspect_engines(bundle, engines)}


def inspect_engines(bundle: Bundle, engines: EngineSet) -> EngineReport:
    """What a set holds; raises `EngineError` where its listing is not readable."""
    variant = bundle.manifest.variants.get(engines.key.variant)
    limits = engines.key.limits
    try:
        listing: dict[str, dict[str, JsonValue]] = json.loads(bundle.path(engines.layers).read_bytes())
        plans: dict[EnginePart, PlanReport] = {part: _plan(listing[part]) for part in _PARTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{engines.layers} cannot be read ({error!r}): run neo-edge build --overwrite"
        ) from error
    return EngineReport(
        key=engines.key,
        stale=is_stale(bundle.manifest, engines),
        cache_bytes=0
        if variant is None
        else cache_bytes(
            bundle.manifest.model.decoder,
            batch=limits.max_batch,
            capacity=limits.max_context,
            element_bytes=_ITEM_BYTES[variant.cache_dtype],
        ),
        plans=plans,
    )


def _plan(raw: Mapping[str, JsonValue]) -> PlanReport:
    network, engine = raw["network"], raw["engine"]
    if not isinstance(network, dict) or not isinstance(raw["plan_bytes"], int):
        raise TypeError("network is no object, or plan_bytes no number")
    if network["attention_operators"]:
        attention: Literal["one operator", "plain operators", "none"] = "one operator"
    else:
        attention = "plain operators" if network["softmax_layers"] else "none"
    fused = engine.get("Layers") if isinstance(engine, dict) else None
    products = _counts(network["matrix_products"])
    return PlanReport(
        plan_bytes=raw["plan_bytes"],
        layers=sum(_counts(network["layers"]).values()),
        output_types=_counts(network["output_types"]),
        matrix_products=products,
        int8_products=products.get("INT8 x INT8", 0),
        attention=attention,
        engine_layers=len(fused) if isinstance(fused, list) else None,
    )


def _counts(raw: JsonValue) -> dict[str, int]:
    if not isinstance(raw, dict):
        raise TypeError(f"{raw!r} is no table")
    return {name: count for name, count in raw.items() if isinstance(count, int)}
