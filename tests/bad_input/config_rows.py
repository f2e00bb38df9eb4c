"""config.json and generation_config.json with something broken in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_row import Action, Place, Row

from neo_edge.config import ModelConfig, load_config
from neo_edge.errors import ConfigError, UnsupportedArchitectureError

OWN = "the checkpoint's own config.json"
OTHER = UnsupportedArchitectureError


def config(
    broken: str, change: Callable[[dict[str, Any]], object], error: type[Exception], *words: str
) -> Row:
    """The tiny model's config.json with a change."""

    def prepare(place: Place) -> Action:
        data = json.loads((place.checkpoint / "config.json").read_text())
        change(data)
        (place.folder / "config.json").write_text(json.dumps(data))
        return lambda: load_config(place.folder)

    return Row(broken, prepare, error, words)


def llm(field: str, value: object, *words: str, error: type[Exception] = ConfigError) -> Row:
    shown = json.dumps(value)
    return config(
        f"{field} is {shown if len(shown) < 40 else shown[:30] + '...'}",
        lambda data: data["llm_config"].update({field: value}),
        error,
        field,
        *words,
    )


def vision(field: str, value: object, *words: str, error: type[Exception] = ConfigError) -> Row:
    return config(
        f"vision {field} is {json.dumps(value)}",
        lambda data: data["vision_config"].update({field: value}),
        error,
        field,
        *words,
    )


def config_text(broken: str, text: str | bytes, *words: str) -> Row:
    def prepare(place: Place) -> Action:
        (place.folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return lambda: load_config(place.folder)

    return Row(broken, prepare, ConfigError, words)


def generation(broken: str, text: str, *words: str) -> Row:
    def prepare(place: Place) -> Action:
        shutil.copy(place.checkpoint / "config.json", place.folder)
        (place.folder / "generation_config.json").write_text(text)
        return lambda: load_config(place.folder)

    return Row(broken, prepare, ConfigError, ("generation_config.json", *words))


def _folder(place: Place) -> Action:
    (place.folder / "config.json").mkdir()
    return lambda: load_config(place.folder)


def _dangling(place: Place) -> Action:
    (place.folder / "config.json").symlink_to(Path("../../blobs/0123"))
    return lambda: load_config(place.folder)


def _cache_root(place: Place) -> Action:
    snapshot = place.folder / "models--neo--nano" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    shutil.copy(place.checkpoint / "config.json", snapshot)
    return lambda: load_config(place.folder / "models--neo--nano")


def _remote_code(place: Place) -> Action:
    data = json.loads((place.checkpoint / "config.json").read_text())
    data |= {"auto_map": {"AutoModel": "modeling_neo.NEOChatModel"}, "trust_remote_code": True}
    (place.folder / "config.json").write_text(json.dumps(data))
    trap = place.folder / "trap"
    (place.folder / "modeling_neo.py").write_text(f"open({str(trap)!r}, 'w')\n")
    return lambda: load_config(place.folder)


CONFIG_ROWS = (
    Row("a folder in its place", _folder, ConfigError, ("cannot be read as JSON", "fetch it again")),
    Row("a link to nothing", _dangling, ConfigError, ("blobs/0123", "is not there", "cp -L")),
    Row(
        "the root of a Hugging Face cache", _cache_root, ConfigError, ("Hugging Face cache", "give", "abc123")
    ),
    Row("auto_map and remote code: ignored", _remote_code, None, gives=lambda x: isinstance(x, ModelConfig)),
    config_text("an empty file", "", "cannot be read as JSON", "fetch it again"),
    config_text("half a file", '{"model_type": "neo_c', "cannot be read as JSON", "fetch it again"),
    config_text("a list", "[1, 2]", "list", "not an object"),
    config_text("bytes that are no UTF-8", b'{"a": "\xff"}', "cannot be read", "fetch it again"),
    config_text("nested 100,000 deep", "[" * 100_000, "cannot be read", "fetch it again"),
    config_text(
        "a number of 5,000 digits", '{"model_type": ' + "9" * 5000 + "}", "cannot be read", "fetch it again"
    ),
    config("another architecture", lambda d: d.update(model_type="qwen3_vl"), OTHER, "'qwen3_vl'", "NEO-ov"),
    config("no model_type", lambda d: d.pop("model_type"), OTHER, "None", "'neo_chat'"),
    config("a model_type that is a list", lambda d: d.update(model_type=["neo_chat"]), OTHER, "'neo_chat'"),
    config("no llm_config", lambda d: d.pop("llm_config"), ConfigError, "no object 'llm_config'"),
    config(
        "a vision_config in words",
        lambda d: d.update(vision_config="x"),
        ConfigError,
        "no object 'vision_config'",
    ),
    config(
        "an unknown chat template", lambda d: d.update(template="vicuna"), ConfigError, "'vicuna'", "neo1_0"
    ),
    config("two image tokens", lambda d: d.update(img_start_token_id=[1, 2]), ConfigError, "one token id"),
    config(
        "a missing field", lambda d: d["llm_config"].pop("head_dim"), ConfigError, "llm_config.head_dim", OWN
    ),
    llm("num_hidden_layers", 0, "above zero", OWN),
    llm("num_hidden_layers", -3, "above zero", OWN),
    llm("num_hidden_layers", 10**12, "at most 1024", OWN),
    llm("num_hidden_layers", 10**400, "finite number", OWN),
    llm("num_hidden_layers", "3", "whole number"),
    llm("num_hidden_layers", 2.5, "whole number"),
    llm("num_hidden_layers", [3, 3], "whole number"),
    llm("num_hidden_layers", None, "whole number"),
    llm("vocab_size", 2**31, "at most", OWN),
    llm("hidden_size", True, "whole number"),
    llm("rope_theta", float("nan"), "finite number", OWN),
    llm("rope_theta", float("inf"), "finite number", OWN),
    llm("rope_theta_hw", 10**400, "finite number", OWN),
    llm("rms_norm_eps", -1e-6, "above zero", OWN),
    llm("head_dim", 6, "multiple of 4"),
    llm("tie_word_embeddings", "no", "true or false"),
    llm("eos_token_id", -1, "a token id, a list"),
    llm("eos_token_id", [3, "</s>"], "a token id, a list"),
    llm("hidden_act", "gelu", "'silu'", error=OTHER),
    llm("rope_scaling", {"type": "yarn"}, "None", error=OTHER),
    vision("downsample_ratio", 0.25, "0.5", error=OTHER),
    vision("num_channels", 4, "RGB", error=OTHER),
    vision("patch_size", 100000, "at most 1024", OWN),
    vision("max_pixels", 1, "swap or raise"),
    generation("generation_config.json is empty", "", "cannot be read as JSON", "fetch it again"),
    generation("an end token in words", '{"eos_token_id": "</s>"}', "a token id", "fetch the file again"),
)
