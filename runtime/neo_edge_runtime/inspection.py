"""What is in a bundle or a checkpoint, and what it will take, without loading it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from neo_edge.bundle import Bundle, open_bundle
from neo_edge.checkpoint import EMBEDDING, expected_tensors, open_checkpoint
from neo_edge.config import ModelConfig
from neo_edge.errors import BrokenPackageError, MissingExtraError
from neo_edge.extras import require
from neo_edge.manifest import MANIFEST_FILE, CacheDtype, Calibration, Manifest, OpsProfile, Variant
from neo_edge.manifest_fields import JsonValue
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import load_tokenizer
from neo_edge_runtime.engine_inspection import EngineReport, inspect_engines
from neo_edge_runtime.memory_forecast import MemoryForecast, forecast
from neo_edge_runtime.ort_memory import (
    kernel_traits,
    ort_traits,
    prepacked_load_bytes,
    private_weight_bytes,
    weight_bytes,
)
from neo_edge_runtime.prepacked import GRAPHS, PrepackedVariant
from neo_edge_runtime.prepacked_build import find_prepacked

if TYPE_CHECKING:
    from neo_edge_runtime.backend import BackendTraits

DEFAULT_CONTEXT_TOKENS = 4096
_LAYER_NUMBER = r"\.\d+\."
_FLOAT_PRECISIONS: dict[str, CacheDtype] = {"fp32": "float32", "fp16": "float16"}
_ITEM_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class Prepacked:
    """A variant in the prepacked cache."""

    size_bytes: int  # of its files: each weight as it is computed with, and packed
    load_bytes: int  # private memory that loading takes for a moment
    kernels: bool  # the decoder runs on kernels of our own; its weights are there once, packed


@dataclass(frozen=True)
class VariantReport:
    """One variant, or what an export to it would be."""

    precision: str
    ops: OpsProfile
    size_bytes: int  # of its files
    memory: MemoryForecast
    prepacked: Prepacked | None = None  # what this machine's cache has of it; its weights are mapped then
    layer_precision: Mapping[str, JsonValue] = field(default_factory=dict)  # where it differs
    quality: Mapping[str, JsonValue] = field(default_factory=dict)  # measured at export
    reservation: str = ""  # what is known against using it


@dataclass(frozen=True)
class ModelReport:
    """A bundle or a checkpoint."""

    kind: Literal["bundle", "checkpoint"]
    path: str
    size_bytes: int
    files: int
    model: ModelConfig
    parameters: int
    special_tokens: Mapping[str, int | tuple[int, ...] | None]
    tokenizer: bool
    provenance: Mapping[str, JsonValue]
    tensor_types: Mapping[str, int]  # of a checkpoint: tensors by stored type
    layer_precision: Mapping[
        str, str
    ]  # of a checkpoint: tensors of another type than most, `*` for every layer
    context_tokens: int
    picture_tokens: int  # visual tokens of the largest picture of the `edge` protocol
    variants: Mapping[str, VariantReport]  # of a checkpoint: what exports would be
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)  # of a bundle, by name
    engines: Mapping[str, EngineReport] = field(default_factory=dict)  # of a bundle, by their folder's name

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        report = asdict(self)
        for name, variant in self.variants.items():
            report["variants"][name]["memory"]["total"] = variant.memory.total
        return report


def inspect(path: Path, context_tokens: int = DEFAULT_CONTEXT_TOKENS) -> ModelReport:
    """Reads the bundle or the checkpoint in a directory; raises as `open_bundle` or `open_checkpoint` does."""
    if (path / MANIFEST_FILE).is_file():
        return _inspect_bundle(path, context_tokens)
    return _inspect_checkpoint(path, context_tokens)


def _inspect_bundle(path: Path, context_tokens: int) -> ModelReport:
    bundle = open_bundle(path)
    manifest = bundle.manifest
    config, tokens = manifest.model, manifest.special_tokens
    picture_tokens = _picture_tokens(config)
    entries = _prepacked_entries(bundle)
    variants = {
        name: VariantReport(
            precision=variant.precision,
            ops=variant.ops,
            size_bytes=_variant_bytes(manifest, name),
            memory=forecast(
                _traits(config, variant, entries.get(name)),
                weights=_private_weights(manifest, variant, entries.get(name)),
                context_tokens=context_tokens,
                picture_tokens=picture_tokens,
            ),
            prepacked=_prepacked(config, entries.get(name)),
            layer_precision=dict(variant.layer_precision),
            quality=dict(variant.quality),
            reservation=variant.reservation,
        )
        for name, variant in manifest.variants.items()
    }
    return ModelReport(
        kind="bundle",
        path=str(path),
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        files=len(manifest.files),
        model=config,
        parameters=_parameters(config),
        special_tokens={} if tokens is None else asdict(tokens),
        tokenizer=manifest.tokenizer,
        provenance={
            "producer": f"{manifest.producer.name} {manifest.producer.version}",
            "schema_version": manifest.schema_version,
            **manifest.provenance,
        },
        tensor_types={},
        layer_precision={},
        context_tokens=context_tokens,
        picture_tokens=picture_tokens,
        variants=variants,
        calibrations=manifest.calibrations,
        engines={name: inspect_engines(bundle, engines) for name, engines in manifest.engines.items()},
    )


def _inspect_checkpoint(path: Path, context_tokens: int) -> ModelReport:
    checkpoint = open_checkpoint(path)
    config, picture_tokens = checkpoint.config, _picture_tokens(checkpoint.config)
    types = Counter(entry.dtype for entry in checkpoint.tensors.values())
    usual = types.most_common(1)[0][0]
    profiles: tuple[OpsProfile, ...] = get_args(OpsProfile)
    variants = {
        precision if ops == "modern" else f"{precision}-{ops}": _export_report(
            config, precision, ops, context_tokens, picture_tokens
        )
        for precision in _FLOAT_PRECISIONS
        for ops in profiles
    }
    return ModelReport(
        kind="checkpoint",
        path=str(path),
        size_bytes=sum(entry.size_bytes for entry in checkpoint.tensors.values()),
        files=len({entry.file for entry in checkpoint.tensors.values()}),
        model=config,
        parameters=_parameters(config),
        special_tokens={
            "img_context": config.img_context_token_id,
            "img_start": config.img_start_token_id,
            "img_end": config.img_end_token_id,
            "eos": config.eos_token_id,
        },
        tokenizer=load_tokenizer(path) is not None,
        provenance={},
        tensor_types=dict(types),
        layer_precision={
            re.sub(_LAYER_NUMBER, ".*.", name): entry.dtype
            for name, entry in checkpoint.tensors.items()
            if entry.dtype != usual
        },
        context_tokens=context_tokens,
        picture_tokens=picture_tokens,
        variants=variants,
    )


def _export_report(
    config: ModelConfig, precision: str, ops: OpsProfile, context_tokens: int, picture_tokens: int
) -> VariantReport:
    """What an export would give, its few float32 tensors in float16 variants left out."""
    dtype = _FLOAT_PRECISIONS[precision]
    shapes = expected_tensors(config)
    table = math.prod(shapes[EMBEDDING])
    # A graph holds the head, tied or not; the embedding stays on the host.
    in_graphs = _parameters(config) - (0 if config.decoder.tie_word_embeddings else table)
    return VariantReport(
        precision=precision,
        ops=ops,
        size_bytes=(in_graphs + table) * _ITEM_BYTES[dtype],
        memory=forecast(
            ort_traits(config, ops, cache_dtype=dtype, embedding_dtype=dtype),
            weights=in_graphs * _ITEM_BYTES["float32"],  # what it is computed in
            context_tokens=context_tokens,
            picture_tokens=picture_tokens,
        ),
    )


def _prepacked_entries(bundle: Bundle) -> dict[str, PrepackedVariant]:
    """By variant; none where onnxruntime is not installed, since the keys hold its version."""
    try:
        ort = require("onnxruntime", extra="cpu")
    except (MissingExtraError, BrokenPackageError):
        return {}
    found = {name: find_prepacked(ort, bundle, name) for name in bundle.manifest.variants}
    return {name: entry for name, entry in found.items() if entry is not None}


def _traits(config: ModelConfig, variant: Variant, entry: PrepackedVariant | None) -> BackendTraits:
    traits = ort_traits(
        config, variant.ops, cache_dtype=variant.cache_dtype, embedding_dtype=variant.embedding_dtype
    )
    return traits if entry is None or not entry.kernels else kernel_traits(traits)


def _private_weights(manifest: Manifest, variant: Variant, entry: PrepackedVariant | None) -> int:
    if entry is None:
        return private_weight_bytes(manifest, variant)
    # The graphs and their smallest weights.
    return sum(entry.files[name].size_bytes for name in GRAPHS if name in entry.files)


def _prepacked(config: ModelConfig, entry: PrepackedVariant | None) -> Prepacked | None:
    if entry is None:
        return None
    return Prepacked(entry.size_bytes, prepacked_load_bytes(config, entry.graph_bytes), entry.kernels)


def _parameters(config: ModelConfig) -> int:
    return sum(map(math.prod, expected_tensors(config).values()))


def _picture_tokens(config: ModelConfig) -> int:
    _, max_pixels = get_protocol("edge").pixel_limits(config.vision)
    return max(1, max_pixels // config.vision.token_size**2)


def _variant_bytes(manifest: Manifest, name: str) -> int:
    variant = manifest.variants[name]
    table = sum(variant.token_embedding.files.values())
    return weight_bytes(manifest, variant) + table
