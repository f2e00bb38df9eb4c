"""A recipe: one readable table that says how each weight of a model is stored and multiplied."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from neo_edge.errors import QuantizationError
from neo_edge.manifest import OpsProfile
from neo_edge_export.quantization.weight_rounding import GROUP_SIZES, ScaleType

Scheme = Literal["float", "w8a8-token", "w8a8-tensor", "w8", "w4"]
Rounding = Literal["nearest", "clipped", "compensated"]
RangeMethod = Literal["max", "percentile", "mse"]
TableType = Literal["int8", "float"]

SCHEMES: Mapping[Scheme, str] = {
    "float": "as the source variant has it",
    "w8a8-token": "integer products; a weight scale per output, an activation scale per token, found in the run",
    "w8a8-tensor": "explicit Q/DQ; a weight scale per output, one activation scale per tensor, from calibration",
    "w8": "weights alone in 8 bits, a scale per output",
    "w4": "weights alone in 4 bits, a scale per output and group of inputs",
}
# Integer products with a scale per token are ONNX Runtime's; TensorRT takes Q/DQ alone (TensorRT-RTX 1.7 refuses
# MatMulInteger), and ONNX Runtime's modern profile has nothing to gain from fixed scales.
_PROFILES: Mapping[Scheme, tuple[OpsProfile, ...]] = {
    "float": ("modern", "portable"),
    "w8a8-token": ("modern",),
    "w8a8-tensor": ("portable",),
    "w8": ("modern", "portable"),
    "w4": ("modern", "portable"),
}
# What keeping a sensitive layer in higher precision means.
_FINER: Mapping[tuple[Scheme, OpsProfile], Scheme] = {
    ("w4", "modern"): "w8a8-token",
    ("w4", "portable"): "w8",
}


@dataclass(frozen=True)
class LayerRule:
    """One row: the weights that a pattern names, and what becomes of them."""

    # Shell pattern over names such as `decoder.layers.0.mlp.up_proj`, `decoder.lm_head`, `vision.patch_embedding`.
    weights: str
    scheme: Scheme
    # nearest: the largest number of a channel sets its scale; clipped: the scale of least squared weight error;
    # compensated: 4 bits only, each group's error is passed on to the groups behind it, by the calibration rows.
    rounding: Rounding = "nearest"
    group_size: int | None = None  # inputs that share a scale, of w4 alone: 16, 32, 64 or 128

    def __post_init__(self) -> None:
        """Raises `QuantizationError` for a row that means nothing."""
        _require_choice(f"{self.weights}: scheme", self.scheme, get_args(Scheme))
        _require_choice(f"{self.weights}: rounding", self.rounding, get_args(Rounding))
        if self.scheme == "w4":
            size = self.group_size
            if not isinstance(size, int) or isinstance(size, bool) or size not in GROUP_SIZES:
                raise QuantizationError(
                    f"{self.weights}: group_size is {size!r}; w4 needs one of {', '.join(map(str, GROUP_SIZES))}"
                )
        elif self.group_size is not None:
            raise QuantizationError(
                f"{self.weights}: group_size is {self.group_size!r} and the scheme is {self.scheme}: only w4 has groups"
            )
        if self.rounding == "compensated" and self.scheme != "w4":
            raise QuantizationError(
                f"{self.weights}: rounding is 'compensated' and the scheme is {self.scheme}: choose nearest or clipped"
            )

    def finer(self, profile: OpsProfile) -> LayerRule:
        """The next higher precision: 8 bits for w4, float for the rest."""
        scheme = _FINER.get((self.scheme, profile), "float")
        return LayerRule(self.weights, scheme, "clipped" if scheme != "float" else "nearest")


@dataclass(frozen=True)
class Recipe:
    """How a float variant becomes a smaller one. The first row whose pattern fits a weight holds for it."""

    name: str  # also of the variant, unless another is asked for
    summary: str
    profile: OpsProfile  # of the float variant that it starts from
    layers: tuple[LayerRule, ...]  # weights that no row names stay as they are
    # Patterns of activation groups such as `layers.*.attention_input` whose outliers are moved into the weights.
    smoothing: tuple[str, ...] = ()
    range_method: RangeMethod = "mse"  # of w8a8-tensor's activations
    scale_type: ScaleType = "float32"  # of w4's scales in the modern profile; elsewhere the graph's own type
    token_table: TableType = "int8"  # the embedding table on the host, a scale per row
    # Points of accuracy, of all questions together, that the variant may lose; see quantize.py.
    target_drop: float = 1.0

    def __post_init__(self) -> None:
        """Raises `QuantizationError` for a recipe that means nothing, or that its profile cannot run."""
        _require_choice("profile", self.profile, get_args(OpsProfile))
        _require_choice("range_method", self.range_method, get_args(RangeMethod))
        _require_choice("scale_type", self.scale_type, get_args(ScaleType))
        _require_choice("token_table", self.token_table, get_args(TableType))
        if not self.layers:
            raise QuantizationError(f"the recipe {self.name!r} has no layers: give at least one row")
        if not 0 < self.target_drop <= 100:
            raise QuantizationError(
                f"target_drop is {self.target_drop!r}; it is in points of accuracy, above 0 and at most 100"
            )
        for rule in self.layers:
            if self.profile not in _PROFILES[rule.scheme]:
                fitting = [name for name, profiles in _PROFILES.items() if self.profile in profiles]
                raise QuantizationError(
                    f"{rule.weights}: the scheme {rule.scheme} does not exist in the {self.profile} profile: use "
                    f"{', '.join(fitting)}"
                )

    @property
    def needs_calibration(self) -> bool:
        """Whether activations must have been seen."""
        return bool(self.smoothing) or any(
            rule.scheme == "w8a8-tensor" or rule.rounding == "compensated" for rule in self.layers
        )

    def rule(self, weight: str) -> LayerRule:
        """What becomes of a weight, named as in `LayerRule.weights`."""
        for rule in self.layers:
            if fnmatch.fnmatchcase(weight, rule.weights):
                return rule
        return LayerRule(weight, "float")

    def smooths(self, group: str) -> bool:
        """Whether an activation group's outliers are moved into its weights."""
        return any(fnmatch.fnmatchcase(group, pattern) for pattern in self.smoothing)


def recipe_from(raw: object, where: str) -> Recipe:
    """The recipe of a parsed TOML or JSON file; the README of `docs/quantization.md` shows one.

    Args:
        raw: the file's contents.
        where: its name, for errors.

    Raises:
        QuantizationError: a key is unknown, missing, or holds what it cannot.
    """
    try:
        return _recipe(raw)
    except QuantizationError as error:
        raise QuantizationError(f"{where}: {error}") from error


def _recipe(raw: object) -> Recipe:
    table = _table(raw, Recipe, "the recipe", needed={"name", "profile", "layers"})
    rows = _rows(table["layers"])
    number = table.get("target_drop", 1.0)
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise QuantizationError(f"target_drop is {number!r}; a number is needed")
    return Recipe(
        name=_text(table, "name"),
        summary=_text(table, "summary") if "summary" in table else "",
        profile=cast("OpsProfile", _text(table, "profile")),
        layers=tuple(rows),
        smoothing=_texts(table.get("smoothing", ()), "smoothing"),
        range_method=cast("RangeMethod", table.get("range_method", "mse")),
        scale_type=cast("ScaleType", table.get("scale_type", "float32")),
        token_table=cast("TableType", table.get("token_table", "int8")),
        target_drop=float(number),
    )


def _rows(raw: object) -> list[LayerRule]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise QuantizationError(f"layers is {raw!r}; a list of rows is needed")
    rows = []
    for number, item in enumerate(raw, 1):
        row = _table(item, LayerRule, f"row {number} of layers", needed={"weights", "scheme"})
        rows.append(
            LayerRule(
                weights=_text(row, "weights"),
                scheme=cast("Scheme", row["scheme"]),
                rounding=cast("Rounding", row.get("rounding", "nearest")),
                group_size=cast("int | None", row.get("group_size")),
            )
        )
    return rows


def _table(
    raw: object, shape: type[Recipe] | type[LayerRule], what: str, needed: set[str]
) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise QuantizationError(f"{what} is {raw!r}; a table of keys is needed")
    known = {field.name for field in fields(shape)}
    unknown, missing = sorted(set(raw) - known), sorted(needed - set(raw))
    if unknown:
        raise QuantizationError(
            f"{what} has the unknown key {', '.join(map(repr, unknown))}: use {', '.join(sorted(known))}"
        )
    if missing:
        raise QuantizationError(f"{what} lacks {', '.join(missing)}")
    return cast("dict[str, object]", raw)


def _text(table: Mapping[str, object], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise QuantizationError(f"{key} is {value!r}; text is needed")
    return value


def _texts(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise QuantizationError(f"{key} is {value!r}; a list of text is needed")
    return tuple(value)


def _require_choice(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise QuantizationError(f"{what} is {value!r}; use {', '.join(allowed)}")
