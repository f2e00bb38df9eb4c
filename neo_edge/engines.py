"""What a bundle says of its TensorRT engines: the key that each set was built for, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from neo_edge.errors import InputError
from neo_edge.manifest_fields import Fields

EngineBackend = Literal["tensorrt", "tensorrt-rtx"]
EnginePart = Literal["vision", "decoder"]
BACKENDS: tuple[EngineBackend, ...] = get_args(EngineBackend)

ENGINES_FOLDER = "engines"
PREFILL_PROFILE, DECODE_PROFILE = 0, 1  # of the decoder's engine, decode for S = 1 and N = 1; vision has one

_DIGEST_LETTERS = 12  # of 64: engines of one bundle are few


@dataclass(frozen=True)
class EngineLimits:
    """The largest shapes that the engines take; each dimension goes from 1 up to it."""

    max_context: int  # C: tokens that a cache holds
    max_chunk: int  # S: tokens of one prefill, and visual tokens of the largest picture
    max_batch: int  # B
    max_logits_rows: int  # N of one prefill; decode has 1
    max_patches: int  # P of one vision call: those of a picture that fills a chunk

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} is {getattr(self, field.name)}; it must be 1 or above")
        if self.max_chunk > self.max_context:
            raise InputError(
                f"max_chunk is {self.max_chunk} and max_context {self.max_context}: a chunk must fit into the context"
            )
        if self.max_logits_rows > self.max_chunk:
            raise InputError(
                f"max_logits_rows is {self.max_logits_rows} and max_chunk {self.max_chunk}: a chunk has no more rows"
            )


@dataclass(frozen=True)
class EngineKey:
    """What engines were built for; they serve nothing else."""

    backend: EngineBackend
    version: str  # of TensorRT, all numbers of it: another one refuses the plan
    compute_capability: str  # digits only: 86
    variant: str  # of the bundle
    graph_digest: str  # `graph_digest` of that variant
    limits: EngineLimits
    driver: str | None = None  # NVIDIA driver that tactics were timed under; None: built ahead of time
    workspace_bytes: int | None = None  # most scratch of one layer, which leaves tactics out; None: no limit

    @property
    def name(self) -> str:
        """The folder's name: backend, version, compute capability, and a digest of all."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LETTERS]
        return f"{self.backend}-{self.version}-sm{self.compute_capability}-{digest}"

    def differences(self, other: EngineKey) -> list[str]:
        """`version 10.3.0 instead of 10.16.1`, one for each field that the other has differently."""
        mine, others = _flat(self), _flat(other)
        return [
            f"{name.replace('_', ' ')} {mine[name]} instead of {others[name]}"
            for name in mine
            if mine[name] != others[name]
        ]


@dataclass(frozen=True)
class EngineSet:
    """Engines of one variant; paths are relative to the bundle, with forward slashes."""

    key: EngineKey
    vision: str  # plan
    decoder: str  # plan with the two profiles
    layers: str  # JSON: what the plans were made of, for `neo-edge inspect`
    timing_cache: str | None = None  # measured tactics, which make the next build quicker

    @property
    def referenced_files(self) -> tuple[str, ...]:
        """The files that this set names."""
        cache = () if self.timing_cache is None else (self.timing_cache,)
        return self.vision, self.decoder, self.layers, *cache

    def plan(self, part: EnginePart) -> str:
        """The plan's path."""
        return self.vision if part == "vision" else self.decoder


def engines_to_dict(engines: Mapping[str, EngineSet]) -> dict[str, object]:
    """For `bundle.json`."""
    return {name: asdict(engine_set) for name, engine_set in engines.items()}


def parse_engines(raw: Fields) -> dict[str, EngineSet]:
    """The `engines` of `bundle.json`, which older bundles lack; raises `BundleCorruptError`."""
    if not raw.has("engines"):
        return {}
    return {name: _engine_set(value) for name, value in raw.section("engines").sections().items()}


def _engine_set(raw: Fields) -> EngineSet:
    key, limits = raw.section("key"), raw.section("key").section("limits")
    numbers = {field.name: limits.integer(field.name) for field in fields(EngineLimits)}
    try:
        largest = EngineLimits(**numbers)
    except InputError as error:
        raise raw.malformed("key", str(error)) from error
    key.section("limits")
    found = EngineSet(
        key=EngineKey(
            backend=key.choice("backend", *BACKENDS),
            version=key.string("version"),
            compute_capability=key.string("compute_capability"),
            variant=key.string("variant"),
            graph_digest=key.string("graph_digest"),
            limits=largest,
            driver=key.optional_string("driver"),
            workspace_bytes=key.optional_integer("workspace_bytes"),
        ),
        vision=raw.path("vision"),
        decoder=raw.path("decoder"),
        layers=raw.path("layers"),
        timing_cache=None if raw.optional_string("timing_cache") is None else raw.path("timing_cache"),
    )
    for part in (limits, key, raw):
        part.no_others()
    return found


def _flat(key: EngineKey) -> dict[str, object]:
    values = asdict(key)
    return {**values.pop("limits"), **values}
