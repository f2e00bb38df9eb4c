"""Writes a whole quantized variant: both graphs and the token table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_edge.bundle import Bundle
from neo_edge.manifest import TokenEmbedding, Variant
from neo_edge.manifest_fields import JsonValue
from neo_edge_export.quantization.float_graph import FloatGraph, Part, Product
from neo_edge_export.quantization.graph_writer import write_graph
from neo_edge_export.quantization.group_inputs import GroupInputs
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.stored_weight import fitting_group
from neo_edge_export.quantization.token_table import write_int8_table

PARTS: tuple[Part, ...] = ("vision", "decoder")
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class WrittenVariant:
    """A variant whose files are there."""

    variant: Variant  # `quality` is empty
    snr_db: Mapping[str, float]  # by product


def open_graphs(bundle: Bundle, variant: str) -> dict[str, FloatGraph]:
    """Both graphs of a float variant, fresh from their files."""
    found = bundle.variant(variant)
    files = {"vision": found.vision, "decoder": found.decoder}
    return {part: FloatGraph(bundle.path(files[part]), part) for part in PARTS}


def write_variant(
    bundle: Bundle,
    source: str,
    recipe: Recipe,
    rules: Mapping[str, LayerRule],
    inputs: GroupInputs,
    folder: Path,
    on_product: Callable[[], None] = lambda: None,
) -> WrittenVariant:
    """Writes a variant's files.

    Args:
        bundle: that has the float variant.
        source: its name.
        recipe: what it becomes.
        rules: by product; those of the recipe, or finer ones.
        inputs: what calibration knows of the products' inputs.
        folder: new or empty; its name is also the one in the bundle.
        on_product: called before each product's weight is written.

    Raises:
        QuantizationError: a weight cannot be rounded.
        OSError: a file cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, name = bundle.variant(source), folder.name
    snr_db: dict[str, float] = {}
    opset = before.opset
    words: dict[str, str] = {}
    for part, graph in open_graphs(bundle, source).items():
        words.update({product.name: _words(rules[product.name], product) for product in graph.products})
        written = write_graph(graph, folder / f"{part}.onnx", recipe, rules, inputs, on_product)
        snr_db.update(written.snr_db)
        opset = max(opset, written.opset)
    variant = Variant(
        precision="int4" if any(rule.scheme == "w4" for rule in rules.values()) else "int8",
        ops=before.ops,
        opset=opset,
        vision=f"{name}/vision.onnx",
        decoder=f"{name}/decoder.onnx",
        token_embedding=_write_table(bundle, source, recipe, folder),
        cache_dtype=before.cache_dtype,
        layer_precision=layer_precision(words) | {"token_embedding": _table_type(recipe, before)},
    )
    return WrittenVariant(variant, snr_db)


def layer_precision(words: Mapping[str, str]) -> dict[str, JsonValue]:
    """What each product became, `*` standing for every layer where they are all alike."""
    alike: dict[str, dict[str, str]] = {}
    for product, word in words.items():
        alike.setdefault(_LAYER.sub(".*.", product), {})[product] = word
    found: dict[str, JsonValue] = {}
    for pattern, members in alike.items():
        different = set(members.values())
        found.update({pattern: different.pop()} if len(different) == 1 else members)
    return found


def _words(rule: LayerRule, product: Product) -> str:
    return f"{rule.scheme} group {fitting_group(rule, product)}" if rule.scheme == "w4" else rule.scheme


def _table_type(recipe: Recipe, source: Variant) -> str:
    return "int8" if recipe.token_table == "int8" else source.token_embedding.dtype


def _write_table(bundle: Bundle, source: str, recipe: Recipe, folder: Path) -> TokenEmbedding:
    before = bundle.variant(source).token_embedding
    path = bundle.path(before.file)
    if recipe.token_table == "float":
        target = f"{folder.name}/token_embedding.bin"
        shutil.copyfile(path, folder / "token_embedding.bin")
        return TokenEmbedding(target, before.dtype, before.shape)
    rows = np.memmap(path, np.dtype(before.dtype).newbyteorder("<"), "r", shape=before.shape)
    return write_int8_table(rows, folder, folder.name)
