"""The model's shape, read from a Hugging Face style `config.json`; no number has a default of ours.

Field names are NEO's. Upstream's configuration class writes two scalars as one-element
lists (a trailing comma made them tuples), so both forms are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from neo_edge.errors import ConfigError, UnsupportedArchitectureError
from neo_edge.generation_config import read_end_tokens, token_ids
from neo_edge.json_file import read_json_object
from neo_edge.shown import shown

_Config = TypeVar("_Config", "VisionConfig", "DecoderConfig", "ModelConfig")

TEMPLATES = ("neo1_0",)
"""Chat templates that `prompt.py` writes."""


@dataclass(frozen=True)
class VisionConfig:
    """Patch embedding: two convolutions and a 2D rotary embedding between them."""

    patch_size: int  # pixels, side of one patch
    num_channels: int  # colour channels
    hidden_size: int  # width after the first convolution
    downsample_ratio: float  # 0.5: 2x2 patches make one visual token
    rope_theta: float  # base of the 2D rotary embedding (`rope_theta_vision`)
    min_pixels: int  # smallest picture area after resizing
    max_pixels: int  # largest picture area after resizing

    @property
    def merge_size(self) -> int:
        """Patches along one side of a visual token."""
        return round(1 / self.downsample_ratio)

    @property
    def token_size(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch, ordered (channel, row, column)."""
        return self.num_channels * self.patch_size**2

    def __post_init__(self) -> None:
        _require_plausible("vision_config", self)
        if self.num_channels != 3:
            raise UnsupportedArchitectureError(
                f"vision_config.num_channels is {self.num_channels}; NEO-ov sees RGB pictures, 3 channels, and "
                "neo_edge exports no other"
            )
        if self.downsample_ratio != 0.5:
            raise UnsupportedArchitectureError(
                f"vision_config.downsample_ratio is {self.downsample_ratio}; NEO-ov has 0.5 (2x2 patches make one "
                "visual token), and neo_edge exports no other"
            )
        if self.hidden_size % 4:
            raise ConfigError(
                f"vision_config.hidden_size is {self.hidden_size}; the 2D rotary embedding "
                "rotates pairs within two halves, so it must be a multiple of 4"
            )
        if self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"vision_config.min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}: swap or raise them"
            )


@dataclass(frozen=True)
class DecoderConfig:
    """A Qwen3 decoder with an extra H/W branch in queries and keys."""

    vocab_size: int  # rows of the embedding and of the head
    hidden_size: int  # width of the residual stream
    intermediate_size: int  # width of the SwiGLU
    num_layers: int  # all decoder layers, pre-buffer included (`num_hidden_layers`)
    num_heads: int  # query heads
    num_kv_heads: int  # key and value heads
    head_dim: int  # d: width of a value head; queries and keys are 2d wide
    rms_norm_eps: float  # added to the mean square
    rope_theta: float  # base for T
    rope_theta_hw: float  # base for H and W
    max_positions: int  # `max_position_embeddings`: the largest t the model was made for
    tie_word_embeddings: bool  # the head shares the embedding's weight

    @property
    def key_dim(self) -> int:
        """Width of one query or key head: T (d), H (d/2) and W (d/2)."""
        return 2 * self.head_dim

    def __post_init__(self) -> None:
        _require_plausible("llm_config", self)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"llm_config has {self.num_heads} query heads and {self.num_kv_heads} key/value heads; "
                "the first must be a multiple of the second"
            )
        if self.head_dim % 4:
            raise ConfigError(
                f"llm_config.head_dim is {self.head_dim}; H and W rotate pairs within half a head, "
                "so it must be a multiple of 4"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a NEO-ov model that its weights do not say."""

    vision: VisionConfig
    decoder: DecoderConfig
    template: str  # conversation template's name, `neo1_0`
    img_context_token_id: int | None  # None: the tokenizer knows
    img_start_token_id: int | None
    img_end_token_id: int | None
    eos_token_id: tuple[int, ...]  # Hugging Face's name for one or several; each ends an answer

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ConfigError(
                f"config.json names the chat template {self.template!r}; neo_edge knows {', '.join(TEMPLATES)}: if "
                "that is how the model was trained, put it into config.json"
            )

    def to_dict(self) -> dict[str, Any]:
        """The plain form that a bundle's manifest stores."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Reads `to_dict`'s form; raises `ConfigError` for a field that is missing or unknown."""
        rest = {key: value for key, value in data.items() if key not in ("vision", "decoder")}
        sections = {
            "vision": _from_stored(VisionConfig, data.get("vision")),
            "decoder": _from_stored(DecoderConfig, data.get("decoder")),
        }
        if "eos_token_id" in rest:
            rest["eos_token_id"] = token_ids(rest["eos_token_id"], "the stored eos_token_id (export again)")
        return _from_stored(cls, {**rest, **sections})


def load_config(directory: str | Path) -> ModelConfig:
    """Reads `config.json` of a NEO1.0 or NEO1.5 checkpoint directory, and the end tokens of its generation config.

    Raises:
        ConfigError: a file is missing, not JSON, or a field is absent, of a wrong type or impossible.
        UnsupportedArchitectureError: the file describes another model.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not path.exists():
        raise ConfigError(_missing(directory, path))
    config = parse_config(read_json_object(path, ConfigError))
    ends = dict.fromkeys((*config.eos_token_id, *read_end_tokens(directory)))
    return replace(config, eos_token_id=tuple(ends))


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """Turns the fields of `config.json` into a `ModelConfig`; raises as `load_config` does."""
    model_type = raw.get("model_type")
    if model_type not in ("neo_chat", "internvl_chat"):
        raise UnsupportedArchitectureError(
            f"config.json has model_type {model_type!r}; neo_edge reads NEO-ov checkpoints, which say 'neo_chat' "
            "('internvl_chat' in one NEO1.0 release)"
        )
    vision = _Section("vision_config", raw)
    llm = _Section("llm_config", raw)
    top = _Section("", {"": raw})
    _refuse_other_options(llm)
    tied = llm.boolean("tie_word_embeddings", top.boolean("tie_word_embeddings", False))
    return ModelConfig(
        vision=VisionConfig(
            patch_size=vision.integer("patch_size"),
            num_channels=vision.integer("num_channels"),
            hidden_size=vision.integer("hidden_size"),
            downsample_ratio=vision.number("downsample_ratio"),
            rope_theta=vision.number("rope_theta_vision"),
            min_pixels=vision.integer("min_pixels"),
            max_pixels=vision.integer("max_pixels"),
        ),
        decoder=DecoderConfig(
            vocab_size=llm.integer("vocab_size"),
            hidden_size=llm.integer("hidden_size"),
            intermediate_size=llm.integer("intermediate_size"),
            num_layers=llm.integer("num_hidden_layers"),
            num_heads=llm.integer("num_attention_heads"),
            num_kv_heads=llm.integer("num_key_value_heads"),
            head_dim=llm.integer("head_dim"),
            rms_norm_eps=llm.number("rms_norm_eps"),
            rope_theta=llm.number("rope_theta"),
            rope_theta_hw=llm.number("rope_theta_hw"),
            max_positions=llm.integer("max_position_embeddings"),
            tie_word_embeddings=tied,
        ),
        template=str(raw.get("template") or TEMPLATES[0]),
        img_context_token_id=top.optional_id("img_context_token_id"),
        img_start_token_id=top.optional_id("img_start_token_id"),
        img_end_token_id=top.optional_id("img_end_token_id"),
        eos_token_id=token_ids(llm.get("eos_token_id", None), "config.json: llm_config.eos_token_id"),
    )


def _refuse_other_options(llm: _Section) -> None:
    for field, only in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("use_sliding_window", False),
        ("rope_scaling", None),
    ):
        found = llm.get(field, only)
        if found != only:
            raise UnsupportedArchitectureError(
                f"llm_config.{field} is {found!r}; NEO-ov has {only!r}, and neo_edge exports no other"
            )


class _Section:
    """One object of config.json, with errors that name the field."""

    def __init__(self, name: str, raw: dict[str, Any]) -> None:
        found = raw.get(name)
        if not isinstance(found, dict):
            raise ConfigError(f"config.json has no object {name!r}: this is not a whole NEO-ov config")
        self._name = f"{name}." if name else ""
        self._raw: dict[str, Any] = found

    def get(self, field: str, default: object) -> object:
        return self._raw.get(field, default)

    def integer(self, field: str) -> int:
        value = self._scalar(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ConfigError(f"config.json: {self._name}{field} is {shown(value)}; a whole number is needed")
        return int(value)

    def number(self, field: str) -> float:
        value = self._scalar(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"config.json: {self._name}{field} is {shown(value)}; a number is needed")
        return float(value)

    def boolean(self, field: str, default: bool) -> bool:
        value = self._raw.get(field, default)
        if not isinstance(value, bool):
            raise ConfigError(f"config.json: {self._name}{field} is {shown(value)}; true or false is needed")
        return value

    def optional_id(self, field: str) -> int | None:
        value = self._raw.get(field)
        ids = token_ids(value, f"config.json: {self._name}{field}")
        if len(ids) > 1:
            raise ConfigError(f"config.json: {self._name}{field} is {value!r}; one token id is needed")
        return ids[0] if ids else None

    def _scalar(self, field: str) -> object:
        if field not in self._raw:
            raise ConfigError(
                f"config.json lacks {self._name}{field}: fetch the checkpoint's own config.json"
            )
        value = self._raw[field]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, int | float) and not abs(value) < _ENDLESS:
            raise ConfigError(
                f"config.json: {self._name}{field} is {shown(value)}; a finite number is needed: fetch the "
                "checkpoint's own config.json"
            )
        return value


def _require_plausible(section: str, config: object) -> None:
    """Numbers above zero that no model outgrows, so that a broken file cannot ask for endless work or memory."""
    for field, value in vars(config).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        largest = _LARGEST.get(field, _LARGEST_COUNT if isinstance(value, int) else _ENDLESS)
        if not 0 < value <= largest:
            name = _NAMES_IN_FILE.get(field, field)
            raise ConfigError(
                f"config.json: {section}.{name} is {shown(value)}; it must be above zero and at most {largest:g}: "
                "fetch the checkpoint's own config.json"
            )


def _missing(directory: Path, path: Path) -> str:
    if path.is_symlink():
        return (
            f"{path} is a link to {path.readlink()}, which is not there: fetch the checkpoint again, or copy it "
            "together with what its links name (cp -L)"
        )
    snapshots = sorted(directory.glob("snapshots/*/config.json"))
    if snapshots:
        return f"{path} does not exist: this is a Hugging Face cache folder; give {snapshots[-1].parent}"
    return f"{path} does not exist: give the directory of a NEO-ov checkpoint"


_ENDLESS = 1e38  # as good as infinite: float32 ends there
_LARGEST_COUNT = (1 << 31) - 1  # positions and pixels are int32 in the graphs
_LARGEST: dict[str, float] = {
    "num_layers": 1024,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "vocab_size": 1 << 24,
    "num_heads": 1 << 12,
    "num_kv_heads": 1 << 12,
    "head_dim": 1 << 12,
    "patch_size": 1 << 10,
}
"""Far beyond any model that was published; only a broken file has more."""

_NAMES_IN_FILE = {
    "max_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "num_layers": "num_hidden_layers",
}


_STORED_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "tuple[int, ...]": (tuple,),
    "VisionConfig": (VisionConfig,),
    "DecoderConfig": (DecoderConfig,),
}


def _from_stored(kind: type[_Config], data: object) -> _Config:
    if not isinstance(data, dict):
        raise ConfigError(f"the stored model config has no {kind.__name__}: export again")
    wanted = {field.name: str(field.type) for field in fields(kind)}
    strange = sorted(wanted.keys() ^ data.keys())
    strange += [
        name
        for name, value in data.items()
        if name in wanted
        and (
            not isinstance(value, _STORED_TYPES[wanted[name]])
            or isinstance(value, bool) != (wanted[name] == "bool")
        )
    ]
    if strange:
        raise ConfigError(
            f"the stored model config does not fit this release ({kind.__name__}: {', '.join(strange)}): export again"
        )
    return kind(**data)
