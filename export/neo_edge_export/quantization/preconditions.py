"""What a bundle must have before it can be quantized, found before any work is done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from neo_edge.bundle import Bundle
from neo_edge.errors import QuantizationError
from neo_edge_calibration.statistics import CalibrationStatistics, load_statistics
from neo_edge_export.quantization.float_graph import Product
from neo_edge_export.quantization.recipe import LayerRule, Recipe, Scheme

_FLOAT = ("fp32", "fp16")  # what a recipe may start from, best first
_DEFAULT_CALIBRATION = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Bytes a weight, scales included, at the most: a group of 16 with float32 scales takes 0.75.
_BYTES: Mapping[Scheme, float] = {
    "float": 4.0,
    "w8a8-token": 1.1,
    "w8a8-tensor": 1.1,
    "w8": 1.1,
    "w4": 0.8,
}


def float_source(bundle: Bundle, recipe: Recipe, asked: str | None) -> str:
    """The variant that a recipe starts from; raises `QuantizationError` when the bundle lacks it."""
    if asked is not None:
        variant = bundle.variant(asked)
        if variant.precision not in _FLOAT or variant.ops != recipe.profile:
            raise QuantizationError(
                f"the variant {asked!r} is {variant.precision} of the {variant.ops} profile; the recipe "
                f"{recipe.name!r} starts from fp32 or fp16 of the {recipe.profile} profile"
            )
        return asked
    for precision in _FLOAT:
        for name, variant in bundle.manifest.variants.items():
            if variant.precision == precision and variant.ops == recipe.profile:
                return name
    raise QuantizationError(
        f"the recipe {recipe.name!r} starts from a float variant of the {recipe.profile} profile, and "
        f"{bundle.root} has {', '.join(bundle.manifest.variants)}: export it again with "
        f"--ops {recipe.profile}, beside what it has"
    )


def float_reference(bundle: Bundle, source: str) -> str:
    """What quality is measured against: the source where it is float32, else a float32 variant if there is one."""
    full = [name for name, variant in bundle.manifest.variants.items() if variant.precision == _FLOAT[0]]
    return source if source in full or not full else full[0]


def checked_name(bundle: Bundle, name: str, *, overwrite: bool) -> str:
    """The name, when a variant may have it; raises `QuantizationError`."""
    if not _NAME.fullmatch(name):
        raise QuantizationError(
            f"{name!r} cannot name a variant: use up to 64 letters, digits, dots, dashes and underscores"
        )
    there = bundle.manifest.variants.get(name)
    if there is not None and there.precision in _FLOAT:
        raise QuantizationError(
            f"{name!r} is a float variant, and those are never replaced: choose another name with --name"
        )
    if there is not None and not overwrite:
        raise QuantizationError(
            f"{bundle.root} has a variant {name!r} already: choose another name, or pass --overwrite "
            "(overwrite=True)"
        )
    return name


def statistics_for(
    bundle: Bundle, recipe: Recipe, asked: str | None, *, needed: bool
) -> CalibrationStatistics | None:
    """The activation statistics that a recipe needs, or was asked to use.

    Args:
        bundle: that was calibrated.
        recipe: which may do without.
        asked: a calibration's name; None: the only one, or `default`.
        needed: whether something else than the recipe needs them.

    Raises:
        QuantizationError: there are none, or it is not clear which.
        BundleError: there are none of that name.
        CalibrationError: they are damaged, or of another bundle.
    """
    names = list(bundle.manifest.calibrations)
    if asked is not None:
        return load_statistics(bundle, asked)
    if not (needed or recipe.needs_calibration):
        return None
    if not names:
        why = (
            f"the recipe {recipe.name!r}"
            if recipe.needs_calibration
            else "keeping sensitive layers (--target-drop)"
        )
        raise QuantizationError(
            f"{why} needs activation statistics, and {bundle.root} has none: run neo-edge calibrate first"
        )
    if len(names) > 1 and _DEFAULT_CALIBRATION not in names:
        raise QuantizationError(
            f"{bundle.root} has the calibrations {', '.join(names)}: name one with --calibration"
        )
    return load_statistics(bundle, names[0] if len(names) == 1 else _DEFAULT_CALIBRATION)


def require_matches(recipe: Recipe, rules: Mapping[str, LayerRule]) -> None:
    """Raises `QuantizationError` when a row of the recipe holds for nothing."""
    used = {rule.weights for rule in rules.values()}
    idle = [rule.weights for rule in recipe.layers if rule.weights not in used]
    if idle:
        raise QuantizationError(
            f"the recipe {recipe.name!r} has rows that no weight comes to: {', '.join(idle)}. Weights are called "
            f"{', '.join(list(rules)[:3])}, ...; the first row that fits holds"
        )


def estimated_bytes(
    bundle: Bundle, source: str, products: Iterable[Product], rules: Mapping[str, LayerRule]
) -> int:
    """What a variant's files will take on the disk, rather more than less."""
    weights = sum(product.numbers * _BYTES[rules[product.name].scheme] for product in products)
    return math.ceil(weights) + bundle.variant(source).token_embedding.size_bytes
