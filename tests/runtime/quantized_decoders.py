"""Quantized variants of a bundle, smoothed by one prompt, and copies of their decoders that tests change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from observed_inputs import observed_statistics

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.bundle_update import BundleUpdate
from neo_edge.manifest import Manifest, Variant
from neo_edge_export.quantization.group_inputs import plan_inputs
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.variant_writer import open_graphs, write_variant

_BYTES = "w8a8-token"
EIGHT_BITS = Recipe("eight", "", "modern", (LayerRule("*", _BYTES, "clipped"),), ("layers.*", "head_input"))
# Blocks of all three sizes where the widths allow them, and products at 8 bits beside those at 4 bits.
FOUR_BITS = Recipe(
    "four",
    "",
    "modern",
    (
        LayerRule("decoder.lm_head", _BYTES),
        LayerRule("decoder.layers.1.self_attn.k_proj*", _BYTES),
        LayerRule("decoder.layers.2.mlp.down_proj", _BYTES),
        LayerRule("decoder.layers.0.mlp.*", "w4", group_size=32),
        LayerRule("decoder.layers.1.*", "w4", group_size=64),
        LayerRule("decoder.*", "w4", group_size=128),
        LayerRule("*", _BYTES),
    ),
)
# No product at 8 bits.
FOUR_EVERYWHERE = Recipe(
    "four everywhere",
    "",
    "modern",
    (
        LayerRule("decoder.lm_head", "w4", group_size=64),
        LayerRule("decoder.*", "w4", group_size=32),
        LayerRule("*", _BYTES),
    ),
)


def with_variants(bundle: Path, target: Path, *recipes: Recipe) -> Bundle:
    """A copy of a bundle of float variants with one more for each recipe, of its name."""
    shutil.copytree(bundle, target)
    for recipe in recipes:
        floats, source = open_bundle(target), "fp32" if recipe.profile == "modern" else "fp32-portable"
        graphs = open_graphs(floats, source)
        rules = {
            product.name: recipe.rule(product.name) for graph in graphs.values() for product in graph.products
        }
        statistics = observed_statistics(floats, source)
        inputs = plan_inputs(graphs, floats.manifest.model.decoder, recipe, rules, statistics)
        with BundleUpdate(floats) as update:
            folder = update.directory / update.fresh_folder(recipe.name)
            variants = {recipe.name: write_variant(floats, source, recipe, rules, inputs, folder).variant}
            update.commit(partial(_with, variants))
    return open_bundle(target)


def _with(variants: Mapping[str, Variant], manifest: Manifest) -> Manifest:
    return replace(manifest, variants={**manifest.variants, **variants})


def decoder_path(bundle: Bundle, variant: str) -> Path:
    """Of its graph."""
    return bundle.path(bundle.variant(variant).decoder)


def changed(decoder: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    """A changed graph in a folder of its own, beside the weights of the old one."""
    folder.mkdir(exist_ok=True)
    model = onnx.load(str(decoder), load_external_data=False)
    change(model)
    data = folder / f"{decoder.name}.data"
    if not data.exists():
        data.hardlink_to(decoder.with_name(data.name))
    (folder / decoder.name).write_bytes(model.SerializeToString())
    return folder / decoder.name
