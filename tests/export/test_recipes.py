"""Recipes: what ships, what a file may say, and which row holds for a weight."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from neo_edge.errors import QuantizationError
from neo_edge_export.quantization.recipe import LayerRule, Recipe, recipe_from
from neo_edge_export.quantization.recipes import RECIPES, find_recipe

SOUND: dict[str, object] = {
    "name": "mine",
    "profile": "modern",
    "layers": [{"weights": "*", "scheme": "w8a8-token"}],
}


def test_four_recipes_ship_under_their_own_names() -> None:
    assert list(RECIPES) == ["int8", "int8-dynamic", "int4", "int4-portable"]
    assert all(find_recipe(name) is recipe and recipe.name == name for name, recipe in RECIPES.items())


def test_the_first_row_that_fits_a_weight_holds_and_others_stay_float() -> None:
    recipe = Recipe(
        "r", "", "modern", (LayerRule("decoder.lm_head", "w8"), LayerRule("decoder.*", "w4", group_size=32))
    )
    assert recipe.rule("decoder.lm_head").scheme == "w8"
    assert recipe.rule("decoder.layers.3.mlp.up_proj").group_size == 32
    assert recipe.rule("vision.patch_embedding").scheme == "float"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_written_to_a_file_reads_back_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(asdict(RECIPES[name])))
    assert find_recipe(str(path)) == RECIPES[name]


def test_toml_says_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nprofile = "modern"\n[[layers]]\nweights = "*"\nscheme = "w8a8-token"\n')
    assert find_recipe(str(path)) == recipe_from(SOUND, "")


def test_higher_precision_is_eight_bits_for_four_and_float_for_eight() -> None:
    rule = LayerRule("*", "w4", "compensated", group_size=64)
    assert rule.finer("modern") == LayerRule("*", "w8a8-token", "clipped")
    assert rule.finer("portable") == LayerRule("*", "w8", "clipped")
    assert rule.finer("portable").finer("portable") == LayerRule("*", "float")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "the recipe has the unknown key 'bits': use layers, name, profile"),
        (
            {"layers": [{"weights": "*", "sheme": "w8"}]},
            "row 1 of layers has the unknown key 'sheme': use group_size",
        ),
        ({"layers": [{"weights": "*"}]}, "row 1 of layers lacks scheme"),
        ({"layers": []}, "'mine' has no layers: give at least one row"),
        ({"layers": {"weights": "*"}}, "a list of rows is needed"),
        ({"layers": ["*"]}, r"row 1 of layers is '\*'; a table of keys is needed"),
        (
            {"layers": [{"weights": "*", "scheme": "int8"}]},
            "scheme is 'int8'; use float, w8a8-token, w8a8-tensor, w8, w4",
        ),
        (
            {"layers": [{"weights": "*", "scheme": "w4"}]},
            "group_size is None; w4 needs one of 16, 32, 64, 128",
        ),
        (
            {"layers": [{"weights": "*", "scheme": "w4", "group_size": 48}]},
            "group_size is 48; w4 needs one of",
        ),
        (
            {"layers": [{"weights": "*", "scheme": "w8", "group_size": 32}]},
            "the scheme is w8: only w4 has groups",
        ),
        (
            {"layers": [{"weights": "*", "scheme": "w8", "rounding": "compensated"}]},
            "rounding is 'compensated' and the scheme is w8: choose nearest or clipped",
        ),
        ({"layers": [{"weights": "*", "scheme": "w8", "rounding": "up"}]}, "rounding is 'up'; use nearest"),
        (
            {"profile": "portable"},
            r"\*: the scheme w8a8-token does not exist in the portable profile: use float, w8a8-tensor, w8, w4",
        ),
        ({"profile": "old"}, "profile is 'old'; use modern, portable"),
        ({"smoothing": "all"}, "smoothing is 'all'; a list of text is needed"),
        ({"range_method": "best"}, "range_method is 'best'; use max, percentile, mse"),
        ({"scale_type": "int8"}, "scale_type is 'int8'; use float32, float16"),
        ({"token_table": "int4"}, "token_table is 'int4'; use int8, float"),
        ({"target_drop": 0}, "target_drop is 0.0; it is in points of accuracy, above 0 and at most 100"),
        ({"target_drop": "1"}, "target_drop is '1'; a number is needed"),
        ({"name": ""}, "name is ''; text is needed"),
    ],
)
def test_a_file_that_means_nothing_says_where_and_what_is_allowed(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**SOUND, **change}))
    with pytest.raises(QuantizationError, match=f"mine.json: .*{message}"):
        find_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "int3",
            None,
            "there is no recipe 'int3': use int8, int8-dynamic, int4, int4-portable, or the path of",
        ),
        ("missing.json", None, "missing.json cannot be read as JSON"),
        ("missing.toml", None, "missing.toml cannot be read as TOML"),
        ("broken.toml", "name = ", "broken.toml cannot be read as TOML"),
        ("list.json", "[]", "holds list, not an object"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(QuantizationError, match=message):
        find_recipe(name if "." not in name else str(path))
