"""The recipes that ship, and those of the user's own: TOML or JSON files with the same keys."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from neo_edge.errors import QuantizationError
from neo_edge.json_file import read_json_object
from neo_edge_export.quantization.recipe import LayerRule, Recipe, recipe_from

# The inputs of attention and MLP come out of a norm, o_proj's out of v_proj and down_proj's out of up_proj, where the
# inverse can stand. Pictures' patches have no weight before them.
_SMOOTHED = (
    "layers.*.attention_input",
    "layers.*.attention_output",
    "layers.*.mlp_input",
    "layers.*.mlp_output",
    "head_input",
)

# At one token ONNX Runtime's MatMulNBits takes a quarter less time with groups of 128 than of 64. What they cost is
# hardly seen with the nano, whose widths leave most products at 64 (docs/quantization.md).
_FOUR_BITS = (LayerRule("decoder.*", "w4", "compensated", group_size=128),)

# The MLP's products are the noisier ones. With groups of 64 everywhere a 2B model would miss 1.9 GB by a hair.
_FINER_FOUR_BITS = (
    LayerRule("decoder.*.self_attn.*", "w4", "compensated", group_size=128),
    LayerRule("decoder.*", "w4", "compensated", group_size=64),
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8",
            summary="8-bit weights and activations with fixed scales, explicit Q/DQ: TensorRT 10.3 and newer",
            profile="portable",
            layers=(
                LayerRule("decoder.*", "w8a8-tensor", "clipped"),
                LayerRule("vision.*", "w8a8-tensor", "clipped"),
            ),
            smoothing=_SMOOTHED,
            range_method="mse",
        ),
        Recipe(
            name="int8-dynamic",
            summary="8-bit weights and activations with a scale for each token: the fast one of ONNX Runtime on CPUs",
            profile="modern",
            layers=(
                LayerRule("decoder.*", "w8a8-token", "clipped"),
                LayerRule("vision.*", "w8a8-token", "clipped"),
            ),
            smoothing=_SMOOTHED,
        ),
        Recipe(
            name="int4",
            summary="4-bit weights in groups, head and vision in 8 bits: the smallest, for ONNX Runtime",
            profile="modern",
            layers=(
                LayerRule("decoder.lm_head", "w8a8-token", "clipped"),
                *_FOUR_BITS,
                LayerRule("vision.*", "w8a8-token", "clipped"),
            ),
            smoothing=_SMOOTHED,
            target_drop=3.0,
        ),
        Recipe(
            name="int4-portable",
            summary="4-bit weights in groups, head and vision in 8 bits: the smallest, for TensorRT",
            profile="portable",
            layers=(
                LayerRule("decoder.lm_head", "w8", "clipped"),
                *_FINER_FOUR_BITS,
                LayerRule("vision.*", "w8", "clipped"),
            ),
            smoothing=_SMOOTHED,
            target_drop=3.0,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """A recipe that ships, or the one in a file.

    Args:
        name: of `RECIPES`, or a path that ends in .toml or .json.

    Raises:
        QuantizationError: there is no such recipe, or the file cannot be read or means nothing.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise QuantizationError(
            f"there is no recipe {name!r}: use {', '.join(RECIPES)}, or the path of a .toml or .json file"
        )
    return recipe_from(_parsed(path), str(path))


def _parsed(path: Path) -> object:
    if path.suffix == ".json":
        return read_json_object(path, QuantizationError, "see docs/quantization.md")
    if sys.version_info < (3, 11):
        raise QuantizationError(f"{path}: Python 3.11 or newer reads TOML; write the same keys as JSON")
    tomllib = importlib.import_module("tomllib")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise QuantizationError(
            f"{path} cannot be read as TOML ({error}): see docs/quantization.md"
        ) from error
