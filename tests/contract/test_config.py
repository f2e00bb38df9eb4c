from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from neo_edge.config import ModelConfig, load_config, parse_config
from neo_edge.errors import ConfigError, UnsupportedArchitectureError
from neo_edge.tokenizer import resolve_special_tokens


@pytest.fixture
def raw(golden_tiny: Path) -> dict[str, Any]:
    return json.loads((golden_tiny / "config.json").read_text())


def test_every_number_comes_from_the_file(raw: dict[str, Any]) -> None:
    raw["llm_config"] |= {
        "num_hidden_layers": 7,
        "rope_theta": 5e6,
        "rope_theta_hw": 123.0,
        "rms_norm_eps": 1e-5,
    }
    raw["vision_config"] |= {"rope_theta_vision": 1000.0, "min_pixels": 5, "max_pixels": 6, "hidden_size": 48}
    config = parse_config(raw)
    decoder, vision = config.decoder, config.vision
    assert (decoder.num_layers, decoder.rope_theta, decoder.rope_theta_hw) == (7, 5e6, 123.0)
    assert decoder.rms_norm_eps == 1e-5
    assert (vision.rope_theta, vision.min_pixels, vision.max_pixels, vision.hidden_size) == (1000.0, 5, 6, 48)


def test_scalars_written_as_one_element_lists_are_read(raw: dict[str, Any]) -> None:
    plain = parse_config(copy.deepcopy(raw))
    raw["vision_config"] |= {"downsample_ratio": [0.5], "llm_hidden_size": [64]}
    assert parse_config(raw) == plain


def test_a_list_of_two_is_no_scalar(raw: dict[str, Any]) -> None:
    raw["vision_config"]["patch_size"] = [16, 16]
    with pytest.raises(ConfigError, match="vision_config.patch_size is"):
        parse_config(raw)


@pytest.mark.parametrize("where", ["llm_config", "top"])
def test_a_tied_head_is_read_from_either_place(raw: dict[str, Any], where: str) -> None:
    del raw["llm_config"]["tie_word_embeddings"], raw["tie_word_embeddings"]
    assert not parse_config(copy.deepcopy(raw)).decoder.tie_word_embeddings
    (raw if where == "top" else raw[where])["tie_word_embeddings"] = True
    assert parse_config(raw).decoder.tie_word_embeddings


def test_a_neo1_0_config_under_its_other_name_is_read(raw: dict[str, Any]) -> None:
    raw["model_type"] = "internvl_chat"
    assert parse_config(raw).decoder.num_layers == 3


def test_another_model_is_refused_by_name(raw: dict[str, Any]) -> None:
    raw["model_type"] = "qwen3_vl"
    with pytest.raises(UnsupportedArchitectureError, match="qwen3_vl"):
        parse_config(raw)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("llm_config", "hidden_act", "gelu"),
        ("llm_config", "attention_bias", True),
        ("llm_config", "rope_scaling", {"type": "yarn"}),
        ("llm_config", "use_sliding_window", True),
        ("vision_config", "downsample_ratio", 0.25),
    ],
)
def test_options_that_neo_ov_does_not_have_are_refused(
    raw: dict[str, Any], section: str, field: str, value: object
) -> None:
    raw[section][field] = value
    with pytest.raises(UnsupportedArchitectureError, match=field):
        parse_config(raw)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("llm_config", "num_hidden_layers", 0),
        ("llm_config", "num_hidden_layers", 2.5),
        ("llm_config", "num_hidden_layers", "3"),
        ("llm_config", "head_dim", 6),
        ("llm_config", "num_key_value_heads", 3),
        ("llm_config", "rope_theta", float("inf")),
        ("llm_config", "rms_norm_eps", True),
        ("llm_config", "tie_word_embeddings", "yes"),
        ("vision_config", "hidden_size", 30),
        ("vision_config", "min_pixels", 10**9),
    ],
)
def test_an_impossible_field_is_named(raw: dict[str, Any], section: str, field: str, value: object) -> None:
    raw[section][field] = value
    with pytest.raises(ConfigError, match="head" if field.startswith("num_key") else field):
        parse_config(raw)


@pytest.mark.parametrize("field", ["num_hidden_layers", "rope_theta_hw", "head_dim"])
def test_a_missing_field_is_named(raw: dict[str, Any], field: str) -> None:
    del raw["llm_config"][field]
    with pytest.raises(ConfigError, match=f"lacks llm_config.{field}"):
        parse_config(raw)


def test_a_missing_section_is_named(raw: dict[str, Any]) -> None:
    del raw["vision_config"]
    with pytest.raises(ConfigError, match="vision_config"):
        parse_config(raw)


def test_an_unknown_chat_template_is_refused_with_the_known_ones(raw: dict[str, Any]) -> None:
    raw["template"] = "vicuna"
    with pytest.raises(ConfigError, match=r"vicuna.*neo1_0"):
        parse_config(raw)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json"):
        load_config(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path)


def test_the_stored_form_reads_back_equal(golden_tiny: Path) -> None:
    config = load_config(golden_tiny)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "change",
    [
        {"vision": None},
        {"template": 3},
        {"surprise": 1},
        {"eos_token_id": True},
        {"decoder": {"hidden_size": 64}},
    ],
)
def test_a_stored_form_that_does_not_fit_is_refused(golden_tiny: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="export again"):
        ModelConfig.from_dict(load_config(golden_tiny).to_dict() | change)


def test_a_stored_number_of_a_wrong_type_is_refused(golden_tiny: Path) -> None:
    stored = load_config(golden_tiny).to_dict()
    stored["decoder"]["hidden_size"] = "64"
    with pytest.raises(ConfigError, match="hidden_size"):
        ModelConfig.from_dict(stored)


def test_every_end_token_of_config_and_generation_config_ends_answers(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    raw["llm_config"]["eos_token_id"] = [5, 3]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 5]}')
    config = load_config(tmp_path)
    assert config.eos_token_id == (5, 3, 7)
    assert resolve_special_tokens(None, config).eos == (5, 3, 7)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("stored", "read"), [(None, ()), (5, (5,)), ([5, 3], (5, 3))])
def test_a_stored_end_token_may_be_one_several_or_none(
    golden_tiny: Path, stored: object, read: tuple[int, ...]
) -> None:
    data = load_config(golden_tiny).to_dict() | {"eos_token_id": stored}
    assert ModelConfig.from_dict(data).eos_token_id == read


def test_a_broken_generation_config_is_refused(golden_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((golden_tiny / "config.json").read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ConfigError, match="generation_config"):
        load_config(tmp_path)
