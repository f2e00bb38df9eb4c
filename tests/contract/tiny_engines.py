"""Engines of a few bytes in the tiny bundle: the key and the files are sound, the plans hold no code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.engine_files import graph_digest
from neo_edge.engines import EngineKey, EngineLimits, EngineSet

LIMITS = EngineLimits(max_context=64, max_chunk=32, max_batch=1, max_logits_rows=4, max_patches=128)
PLANS = {"vision": b"vision plan" * 9, "decoder": b"decoder plan" * 9}


def engine_key(bundle: Bundle, variant: str = "fp32") -> EngineKey:
    """For RTX's compute capability 8.6."""
    digest = graph_digest(bundle.manifest, bundle.variant(variant))
    return EngineKey("tensorrt-rtx", "1.7.1.116", "86", variant, digest, LIMITS)


def engine_set(key: EngineKey) -> EngineSet:
    """Its files, where `add_engines` writes them."""
    folder = f"engines/{key.name}"
    return EngineSet(key, f"{folder}/vision.plan", f"{folder}/decoder.plan", f"{folder}/layers.json")


def add_engines(root: Path, key: EngineKey, layers: bytes = b"{}") -> Bundle:
    """The bundle with such engines, and what `layers.json` says of them."""
    engines = engine_set(key)
    with BundleUpdate(open_bundle(root)) as update:
        for relative, content in zip(engines.referenced_files, (*PLANS.values(), layers), strict=True):
            path = update.directory / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return update.commit(lambda manifest: replace(manifest, engines={key.name: engines}))
