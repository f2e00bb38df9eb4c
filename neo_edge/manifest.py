"""What `bundle.json` says: the model, its variants, where it came from and the digest of every file.

The schema is strict: a field that is missing or unknown is an error, and a change of the schema is a new
`SCHEMA_VERSION`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from neo_edge.config import ModelConfig
from neo_edge.engines import EngineSet, engines_to_dict, parse_engines
from neo_edge.errors import BundleCorruptError, BundleVersionError, ConfigError, TokenizerError
from neo_edge.manifest_fields import Fields, JsonValue, check_relative_path
from neo_edge.tokens import SpecialTokens

SCHEMA_VERSION = 1
MANIFEST_FILE = "bundle.json"

OpsProfile = Literal["modern", "portable"]
CacheDtype = Literal["float32", "float16"]

TableDtype = Literal["float32", "float16", "int8"]

_ITEM_BYTES: Mapping[TableDtype, int] = {"float32": 4, "float16": 2, "int8": 1}
_SCALE_BYTES = 4  # float32


@dataclass(frozen=True)
class Producer:
    """The program that wrote the bundle."""

    name: str  # neo_edge, or your own program
    version: str  # its release


@dataclass(frozen=True)
class FileEntry:
    """Size and digest of one file."""

    size_bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class TokenEmbedding:
    """The embedding table that the host looks tokens up in: raw, row-major, little-endian."""

    file: str  # relative to the bundle, with forward slashes
    dtype: TableDtype  # unless int8, also of `inputs_embeds` and visual tokens
    shape: tuple[int, int]  # [vocab, hidden]
    scale_file: str | None = None  # of int8: a float32 for each row, which it is multiplied by

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.shape[0] * self.shape[1] * _ITEM_BYTES[self.dtype]

    @property
    def files(self) -> Mapping[str, int]:
        """The files that hold it, each with the length that it must have."""
        scales = {} if self.scale_file is None else {self.scale_file: self.shape[0] * _SCALE_BYTES}
        return {self.file: self.size_bytes, **scales}


@dataclass(frozen=True)
class Variant:
    """One set of graphs; paths are relative to the bundle, with forward slashes."""

    precision: str  # fp32, fp16, ...
    ops: OpsProfile  # modern: caches are updated in the graph; portable: by the host
    opset: int  # of the ai.onnx domain
    vision: str  # graph: patches to visual tokens
    decoder: str  # graph: embeddings and caches to logits
    token_embedding: TokenEmbedding
    cache_dtype: CacheDtype  # of key and value caches
    quality: Mapping[str, JsonValue] = field(default_factory=dict)  # measured when it was made
    layer_precision: Mapping[str, JsonValue] = field(
        default_factory=dict
    )  # where it differs from `precision`

    @property
    def referenced_files(self) -> tuple[str, ...]:
        """The files that this variant names."""
        return self.vision, self.decoder, *self.token_embedding.files

    @property
    def reservation(self) -> str:
        """What is known against using the variant; empty when nothing is."""
        if self.quality.get("below_target"):
            return "it loses more accuracy than its target allows"
        if self.quality.get("verdict") == "not shown":
            return "that it loses less accuracy than its target was not shown: it was asked too few questions"
        return "its quality was never measured" if self.quality.get("unmeasured") else ""

    @property
    def embedding_dtype(self) -> CacheDtype:
        """Type of `inputs_embeds` and visual tokens."""
        dtype = self.token_embedding.dtype
        return self.cache_dtype if dtype == "int8" else dtype


@dataclass(frozen=True)
class Calibration:
    """Activation statistics in the bundle; what they hold in full, their file says."""

    file: str  # relative to the bundle, with forward slashes
    variant: str  # the one that ran
    method: str  # of clipping: max, percentile or mse
    samples: int  # prompts that went through the model
    source: str  # of the prompts, in words


@dataclass(frozen=True)
class Manifest:
    """The whole of `bundle.json`."""

    producer: Producer
    model: ModelConfig
    special_tokens: SpecialTokens | None  # None: no tokenizer and no ids in config.json
    tokenizer: bool  # False: prompts must be token ids
    variants: Mapping[str, Variant]  # by name, such as fp16-portable
    provenance: Mapping[str, JsonValue] = field(default_factory=dict)  # checkpoint and packages it came from
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # by path; filled in by the writer
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)  # by name
    engines: Mapping[str, EngineSet] = field(default_factory=dict)  # by the folder's name in engines/
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        data: dict[str, object] = {
            "schema_version": self.schema_version,
            "producer": asdict(self.producer),
            "model": self.model.to_dict(),
            "special_tokens": None if self.special_tokens is None else asdict(self.special_tokens),
            "tokenizer": self.tokenizer,
            "variants": {name: _variant_to_dict(variant) for name, variant in self.variants.items()},
            "provenance": dict(self.provenance),
            # Left out when there are none, so that older releases read such bundles.
            **({"calibrations": _calibrations_to_dict(self.calibrations)} if self.calibrations else {}),
            **({"engines": engines_to_dict(self.engines)} if self.engines else {}),
            "files": {path: asdict(self.files[path]) for path in sorted(self.files)},
        }
        return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def parse_manifest(text: str) -> Manifest:
    """Reads the text of `bundle.json`.

    Raises:
        BundleVersionError: written by a release with another schema.
        BundleCorruptError: not JSON, or a field is missing, unknown, of a wrong type or impossible.
    """
    try:
        raw = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(
            f"{MANIFEST_FILE} is not readable JSON ({error}): copy or export again"
        ) from error
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise BundleCorruptError(
            f"{MANIFEST_FILE} has no schema_version: this is not the manifest of a bundle"
        )
    if raw["schema_version"] != SCHEMA_VERSION or isinstance(raw["schema_version"], bool):
        raise BundleVersionError(
            f"the bundle has schema version {raw['schema_version']!r}; this release reads version {SCHEMA_VERSION}: "
            "install the release that wrote it, or export again"
        )
    fields = Fields(raw, "")
    producer = fields.section("producer")
    manifest = Manifest(
        schema_version=fields.integer("schema_version"),
        producer=Producer(name=producer.string("name"), version=producer.string("version")),
        model=_model(fields),
        special_tokens=_special_tokens(fields),
        tokenizer=fields.boolean("tokenizer"),
        variants={name: _variant(value) for name, value in fields.section("variants").sections().items()},
        provenance=fields.free("provenance"),
        files={path: _file_entry(path, value) for path, value in fields.section("files").sections().items()},
        calibrations=_calibrations(fields),
        engines=parse_engines(fields),
    )
    producer.no_others()
    fields.no_others()
    _check_references(manifest)
    return manifest


def _model(fields: Fields) -> ModelConfig:
    try:
        return ModelConfig.from_dict(dict(fields.free("model")))
    except ConfigError as error:
        raise BundleCorruptError(f"{MANIFEST_FILE}: {error}") from error


def _special_tokens(fields: Fields) -> SpecialTokens | None:
    tokens = fields.optional_section("special_tokens")
    if tokens is None:
        return None
    try:
        found = SpecialTokens(
            img_context=tokens.integer("img_context"),
            img_start=tokens.integer("img_start"),
            img_end=tokens.integer("img_end"),
            eos=tokens.integers("eos"),
        )
    except TokenizerError as error:
        raise BundleCorruptError(f"{MANIFEST_FILE}: {error}") from error
    tokens.no_others()
    return found


def _variant(fields: Fields) -> Variant:
    embedding = fields.section("token_embedding")
    vocab, hidden = embedding.integers("shape", count=2)
    variant = Variant(
        precision=fields.string("precision"),
        ops=fields.choice("ops", "modern", "portable"),
        opset=fields.integer("opset"),
        vision=fields.path("vision"),
        decoder=fields.path("decoder"),
        token_embedding=TokenEmbedding(
            file=embedding.path("file"),
            dtype=embedding.choice("dtype", "float32", "float16", "int8"),
            shape=(vocab, hidden),
            scale_file=embedding.path("scale_file") if embedding.has("scale_file") else None,
        ),
        cache_dtype=fields.choice("cache_dtype", "float32", "float16"),
        quality=fields.free("quality"),
        layer_precision=fields.free("layer_precision"),
    )
    embedding.no_others()
    fields.no_others()
    table = variant.token_embedding
    if (table.dtype == "int8") != (table.scale_file is not None):
        raise BundleCorruptError(
            f"{MANIFEST_FILE}: {table.file!r} is {table.dtype} and has {'a' if table.scale_file else 'no'} "
            "scale_file; int8 needs one, other types take none: copy or export again"
        )
    return variant


def _calibrations(fields: Fields) -> dict[str, Calibration]:
    if not fields.has("calibrations"):
        return {}
    return {name: _calibration(value) for name, value in fields.section("calibrations").sections().items()}


def _calibration(fields: Fields) -> Calibration:
    calibration = Calibration(
        file=fields.path("file"),
        variant=fields.string("variant"),
        method=fields.string("method"),
        samples=fields.integer("samples"),
        source=fields.string("source"),
    )
    fields.no_others()
    return calibration


def _file_entry(path: str, fields: Fields) -> FileEntry:
    check_relative_path(path)
    entry = FileEntry(size_bytes=fields.integer("size_bytes"), sha256=fields.string("sha256"))
    fields.no_others()
    if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
        raise BundleCorruptError(
            f"{MANIFEST_FILE}: the sha256 of {path!r} is {entry.sha256!r}: copy or export again"
        )
    return entry


def _check_references(manifest: Manifest) -> None:
    decoder = manifest.model.decoder
    wanted = (decoder.vocab_size, decoder.hidden_size)
    ids = manifest.special_tokens
    if ids is not None:
        largest = max(ids.img_context, ids.img_start, ids.img_end, *ids.eos)
        if largest >= decoder.vocab_size:
            raise BundleCorruptError(
                f"{MANIFEST_FILE}: special_tokens has the id {largest}, and the model's vocabulary ends at "
                f"{decoder.vocab_size - 1}: export again"
            )
    for name, calibration in manifest.calibrations.items():
        if calibration.file not in manifest.files:
            raise BundleCorruptError(
                f"{MANIFEST_FILE}: calibration {name!r} names {calibration.file!r}, which has no digest: copy the "
                "bundle again, or calibrate again"
            )
    for name, engine_set in manifest.engines.items():
        for path in engine_set.referenced_files:
            if path not in manifest.files:
                raise BundleCorruptError(
                    f"{MANIFEST_FILE}: engines {name!r} name {path!r}, which has no digest: copy the bundle again"
                )
    for name, variant in manifest.variants.items():
        for path in variant.referenced_files:
            if path not in manifest.files:
                raise BundleCorruptError(
                    f"{MANIFEST_FILE}: variant {name!r} names {path!r}, which has no digest: copy or export again"
                )
        table = variant.token_embedding
        if table.shape != wanted:
            raise BundleCorruptError(
                f"{MANIFEST_FILE}: {table.file!r} has the shape {list(table.shape)} and the model needs "
                f"{list(wanted)}: export again"
            )
        for path, size_bytes in table.files.items():
            stored = manifest.files[path].size_bytes
            if stored != size_bytes:
                raise BundleCorruptError(
                    f"{MANIFEST_FILE}: {path!r} has {stored} bytes and the shape {list(table.shape)} in "
                    f"{table.dtype} needs {size_bytes}: copy or export again"
                )


def _calibrations_to_dict(calibrations: Mapping[str, Calibration]) -> dict[str, object]:
    return {name: asdict(calibration) for name, calibration in calibrations.items()}


def _variant_to_dict(variant: Variant) -> dict[str, object]:
    # asdict would refuse the read-only mappings that callers may pass.
    values = {name: value for name, value in vars(variant).items() if name != "token_embedding"}
    values["quality"] = dict(variant.quality)
    values["layer_precision"] = dict(variant.layer_precision)
    # Left out where there is none, so that older releases read such bundles.
    table = {name: value for name, value in asdict(variant.token_embedding).items() if value is not None}
    return {**values, "token_embedding": table}


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
