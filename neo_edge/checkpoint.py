"""A NEO-ov checkpoint directory: its config and its tensors, checked before anything is exported.

`config.json` and `model.safetensors`, or `model.safetensors.index.json` and the shards it names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neo_edge.config import ModelConfig, load_config
from neo_edge.errors import CheckpointError, UnsupportedArchitectureError, WeightsError
from neo_edge.hub import Download, fetch_checkpoint, parse_hub_id
from neo_edge.json_file import read_json_object
from neo_edge.safetensors_file import FloatArray, TensorEntry, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
EMBEDDING = "language_model.model.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"

_SHIPPED = Path(__file__).parent / "checkpoints"
_LISTED = 8  # names that one error message shows of each kind
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CONVERT = (
    "those are pickles, which run code when they are read, so neo_edge never does; fetch the safetensors files of the "
    "checkpoint, or convert it to safetensors where you trust it (transformers: save_pretrained)"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are all there, in the right shapes, and nothing else."""

    directory: Path
    config: ModelConfig
    tensors: dict[str, TensorEntry]  # by upstream's names, in the order of the model

    def iter_names(self) -> Iterator[str]:
        """Names of all tensors, in the order of the model."""
        return iter(self.tensors)

    def read(self, name: str) -> FloatArray:
        """One tensor in its stored shape: float32 or float16 mapped from the file; bfloat16 widened to float32.

        Raises:
            WeightsError: there is no tensor of that name.
        """
        return self._entry(name).read()

    def read_rows(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows `start` to `stop` of one tensor, as `read` gives them; for tensors too large to widen whole."""
        return self._entry(name).read(start, stop)

    def digest(self) -> str:
        """sha256 over config.json and the weight files, in hexadecimal; reads every byte."""
        total = hashlib.sha256()
        files = sorted({entry.file for entry in self.tensors.values()})
        for path in [self.directory / "config.json", *files]:
            total.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    total.update(chunk)
        return total.hexdigest()

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise WeightsError(f"the checkpoint {self.directory} has no tensor {name!r}")
        return self.tensors[name]


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Reads the config and the headers of the weight files and checks them against each other.

    Raises:
        ConfigError: config.json is missing or malformed.
        UnsupportedArchitectureError: another model, NEO-unify (SenseNova-U1) among them.
        WeightsError: files are missing or broken; or tensors are missing, extra, misshapen or stored twice,
            and the message lists them.
    """
    directory = Path(directory)
    config = load_config(directory)
    found: dict[str, TensorEntry] = {}
    twice: list[str] = []
    for path in _weight_files(directory):
        entries = read_header(path)
        twice += sorted(found.keys() & entries.keys())
        found.update(entries)
    if twice:
        raise WeightsError(f"{directory} stores tensors in more than one file: {_listed(twice)}")
    _refuse_neo_unify(directory, found)
    expected = expected_tensors(config)
    _compare(directory, expected, found, config)
    # A tied head may be stored all the same; the embedding is what is used.
    return Checkpoint(directory, config, {name: found[name] for name in expected})


def resolve_checkpoint(name_or_path: str | Path, *, download: Download | None = None) -> Path:
    """The directory that a user means: a path, else a checkpoint that ships with the package, else a Hugging Face id.

    Args:
        name_or_path: a directory; `neo-ov-nano`; or `owner/name`, perhaps with `@revision`. Only the last, and only
            when neither it nor a folder called `owner` lies here, uses the network; a revision makes it the id.
        download: what fetches an id; None: huggingface_hub.

    Raises:
        CheckpointError: none of them; the message names the shipped ones. `HubError`: the id could not be fetched.
        MissingExtraError: it is an id, and huggingface_hub is not installed.
    """
    path, text = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        return path
    shipped = sorted(item.name for item in _SHIPPED.iterdir() if item.is_dir()) if _SHIPPED.is_dir() else []
    if text in shipped:
        return _SHIPPED / text
    hub_id = parse_hub_id(text)
    if hub_id is not None and Path(hub_id.repo).is_dir():
        raise CheckpointError(
            f"{hub_id.repo!r} is a local folder, which has no revision {hub_id.revision!r}: give {hub_id.repo} alone, "
            "or move to another folder to mean the Hugging Face id"
        )
    if hub_id is not None and hub_id.revision is None and path.parent.is_dir() and not os.path.lexists(path):
        raise CheckpointError(
            f"there is no {path.name!r} in the local folder {str(path.parent)!r}: check the path, or give "
            f"{text}@main to mean the Hugging Face id"
        )
    if hub_id is not None and not os.path.lexists(path):
        return fetch_checkpoint(hub_id, download)
    raise CheckpointError(
        f"{text!r} is no directory and no shipped checkpoint ({', '.join(shipped) or 'none'}): "
        "give the directory that holds config.json, or a Hugging Face id such as Paranioar/NEO1_0-2B-SFT"
    )


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name (upstream's) and shape of every tensor of the model; no head when it is tied to the embedding."""
    vision, decoder = config.vision, config.decoder
    hidden = decoder.hidden_size
    embeddings = "vision_model.embeddings"
    conv1 = (vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)
    conv2 = (hidden, vision.hidden_size, vision.merge_size, vision.merge_size)
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}.patch_embedding.weight": conv1,
        f"{embeddings}.patch_embedding.bias": (vision.hidden_size,),
        f"{embeddings}.dense_embedding.weight": conv2,
        f"{embeddings}.dense_embedding.bias": (hidden,),
        EMBEDDING: (decoder.vocab_size, hidden),
    }
    layer = _layer_tensors(config)
    for index in range(decoder.num_layers):
        for name, shape in layer.items():
            shapes[f"language_model.model.layers.{index}.{name}"] = shape
    shapes["language_model.model.norm.weight"] = (hidden,)
    if not decoder.tie_word_embeddings:
        shapes[LM_HEAD] = (decoder.vocab_size, hidden)
    return shapes


def _layer_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    decoder = config.decoder
    hidden, inner, half = decoder.hidden_size, decoder.intermediate_size, decoder.head_dim // 2
    queries, keys = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_proj_hw.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_proj_hw.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
    }
    for side in ("q", "k"):
        shapes[f"self_attn.{side}_norm.weight"] = (decoder.head_dim,)
        shapes[f"self_attn.{side}_norm_h.weight"] = (half,)
        shapes[f"self_attn.{side}_norm_w.weight"] = (half,)
    shapes |= {
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    return shapes


def _weight_files(directory: Path) -> list[Path]:
    single = directory / SINGLE_FILE
    if single.is_file():
        return [single]
    index = directory / INDEX_FILE
    if not index.is_file():
        raise WeightsError(_no_weights(directory))
    weight_map = read_json_object(index, WeightsError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files: fetch it again")
    shards: list[str] = sorted(set(weight_map.values()))
    strange = [shard for shard in shards if Path(shard).name != shard]
    if strange or not shards:
        raise WeightsError(
            f"{index} names {strange or 'no files'}; shards must stand beside it: fetch it again"
        )
    pickles = [shard for shard in shards if shard.endswith(_PICKLES)]
    if pickles:
        raise WeightsError(f"{index} names {_listed(pickles)}: {_CONVERT}")
    absent = [shard for shard in shards if not (directory / shard).is_file()]
    if absent:
        raise WeightsError(f"{index} names files that do not exist: {_listed(absent)}: fetch them")
    for shard in shards:
        listed = {name for name, file in weight_map.items() if file == shard}
        nowhere = sorted(listed - read_header(directory / shard).keys())
        if nowhere:
            raise WeightsError(f"{index} places tensors in {shard} that are not there: {_listed(nowhere)}")
    return [directory / shard for shard in shards]


def _no_weights(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    dangling = [name for name in (SINGLE_FILE, INDEX_FILE) if (directory / name).is_symlink()]
    if dangling:
        return (
            f"{directory / dangling[0]} is a link to {(directory / dangling[0]).readlink()}, which is not there: "
            "fetch the checkpoint again, or copy it together with what its links name (cp -L)"
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return f"{directory} has its weights in {_listed(pickles)}: {_CONVERT}"
    return f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}: fetch the safetensors files of the checkpoint"


def _refuse_neo_unify(directory: Path, found: dict[str, TensorEntry]) -> None:
    has_attention = any(name.endswith(".self_attn.q_proj.weight") for name in found)
    if has_attention and not any(name.endswith(".self_attn.q_proj_hw.weight") for name in found):
        raise UnsupportedArchitectureError(
            f"{directory} has no *.self_attn.q_proj_hw.weight: it is NEO-unify (the SenseNova-U1 family), which also "
            "calls itself 'neo_chat' but splits its heads differently; neo_edge reads NEO1.0 and NEO1.5 (NEO-ov)"
        )


def _compare(
    directory: Path, expected: dict[str, tuple[int, ...]], found: dict[str, TensorEntry], config: ModelConfig
) -> None:
    allowed = dict(expected)
    if config.decoder.tie_word_embeddings:
        allowed[LM_HEAD] = expected[EMBEDDING]
    missing = [name for name in expected if name not in found]
    extra = sorted(found.keys() - allowed.keys())
    misshapen = [
        f"{name} is {list(found[name].shape)}, config.json wants {list(shape)}"
        for name, shape in allowed.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (("missing", missing), ("unexpected", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(
            f"the tensors of {directory} do not fit its config.json; {'; '.join(problems)}. "
            "Fetch config.json and weights of one and the same release"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
