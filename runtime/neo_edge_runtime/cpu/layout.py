"""How the decoder's weights lie in one file, for the kernels of `src/` to read where they are mapped.

Where everything lies follows from the widths of the model and how each product is stored. It is written down beside
it all the same: a description that does not agree with itself is damaged.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neo_edge.errors import CacheError

if TYPE_CHECKING:
    from neo_edge.config import DecoderConfig

WEIGHTS_FILE = "decoder.weights"
LAYOUT_FILE = "decoder.json"
FORMAT = 1  # of both files; one who changes what a product's bytes mean or where they lie counts it up
PANEL = 16  # outputs that lie side by side, as in types.h
DEPTH = 64  # inputs of one step of 8-bit products, as in types.h
BLOCKS = (32, 64, 128)  # inputs that may share a 4-bit product's scale
LAYER_PRODUCTS = (
    *("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
READ_TOGETHER = (
    LAYER_PRODUCTS[:5],
    LAYER_PRODUCTS[6:8],
)  # each the same rows; 4-bit ones have one block then
LAYER_VECTORS = (
    *("input_layernorm", "q_norm", "q_norm_h", "q_norm_w", "k_norm", "k_norm_h", "k_norm_w"),
    "post_attention_layernorm",
)
_PAGE, _LINE = 4096, 64
_MAX_LAYOUT_BYTES = 1 << 20

Kind = Literal["int8", "int4"]


@dataclass(frozen=True)
class Storage:
    """How a product's weights are stored."""

    kind: Kind  # int8: a scale an output, activations with a scale a token; int4: a scale a block of inputs, both
    block: int | None = None  # inputs that share a scale; None: int8

    def __post_init__(self) -> None:
        """Raises `ValueError` for what no kernel reads."""
        known = self.block is None if self.kind == "int8" else self.kind == "int4" and self.block in BLOCKS
        if not known or isinstance(self.block, float):
            raise ValueError(f"no kernel reads {self.kind} weights in blocks of {self.block}")


@dataclass(frozen=True)
class DecoderWidths:
    """What the sizes of all weights follow from, and the one number beside them."""

    layers: int
    hidden: int  # width of the residual stream
    heads: int  # of queries
    kv_heads: int
    head_dim: int  # d: keys and queries are 2d wide
    mlp: int
    vocab: int
    epsilon: float  # of all norms, exactly a float32

    def __post_init__(self) -> None:
        """Raises `ValueError` for widths that no decoder has."""
        for field in fields(self)[:-1]:
            width = getattr(self, field.name)
            if type(width) is not int or width < 1:
                raise ValueError(f"{field.name} is {width!r}")
        if type(self.epsilon) is not float or not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon!r}")

    def products(self) -> Iterator[tuple[str, int, int]]:
        """Name, inputs and outputs of each, in the order in which a token needs them."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        outputs = (query, query, key, key, key, self.hidden, self.mlp, self.mlp, self.hidden)
        inputs = {"o_proj": query, "down_proj": self.mlp}
        for layer in range(self.layers):
            for name, wide in zip(LAYER_PRODUCTS, outputs, strict=True):
                yield f"layers.{layer}.{name}", inputs.get(name, self.hidden), wide
        yield "lm_head", self.hidden, self.vocab

    def vectors(self) -> Iterator[tuple[str, int]]:
        """Name and length of each: float32 but `axis`, int32."""
        half, whole = self.head_dim // 2, self.head_dim
        lengths = (self.hidden, whole, half, half, whole, half, half, self.hidden)
        for layer in range(self.layers):
            for name, length in zip(LAYER_VECTORS, lengths, strict=True):
                yield f"layers.{layer}.{name}", length
        yield "norm", self.hidden
        yield "frequency", whole
        yield "axis", whole


@dataclass(frozen=True)
class PackedProduct:
    """Where a product's weights lie; offsets are in bytes, multiples of 4096.

    int8: weights int8 [outputs / 16][inputs / 4][16][4]; scales float32 [outputs]: a weight's step over 127;
    corrections int32 [outputs]: 128 times the sum of an output's weights. Padded weights and scales are 0.

    int4: for each 16 outputs and each block of inputs float32 scales [16], then the block's groups of four inputs,
    [16][4] numbers each (weight + 8), in pairs: a byte holds the first group's in its low half, the second's in
    its high half. Outputs that are padded have scales of 0; inputs that are padded meet activations of 0.
    """

    storage: Storage
    inputs: int  # K, padded to a multiple of 64 (int8) or of the block (int4)
    outputs: int  # N, padded to a multiple of 16
    weights_offset: int
    scales_offset: int | None  # None: int4
    corrections_offset: int | None  # None: int4

    @property
    def panel_bytes(self) -> int:
        """What 16 outputs take at `weights_offset`."""
        block = self.storage.block
        return (
            PANEL * self.inputs if block is None else self.inputs // block * (4 * PANEL + block * PANEL // 2)
        )

    @property
    def weights_bytes(self) -> int:
        """What all of them take there."""
        return self.outputs // PANEL * self.panel_bytes


@dataclass(frozen=True)
class DecoderLayout:
    """Where everything lies in `decoder.weights`."""

    widths: DecoderWidths
    products: Mapping[str, PackedProduct]  # by name: `layers.0.q_proj`, ..., `lm_head`
    vectors: Mapping[str, int]  # offset in bytes, a multiple of 64, by name: `layers.0.q_norm`, ..., `axis`
    size_bytes: int  # of the file

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        products = {
            name: {**asdict(product), "weights_bytes": product.weights_bytes}
            for name, product in self.products.items()
        }
        return {
            "format": FORMAT,
            "widths": asdict(self.widths),
            "products": products,
            "vectors": dict(self.vectors),
            "size_bytes": self.size_bytes,
        }


def plan_layout(widths: DecoderWidths, storage: Mapping[str, Storage]) -> DecoderLayout:
    """The layout of a decoder whose products are stored like this.

    Args:
        widths: of the model.
        storage: of each of `widths.products()`, by name.

    Raises:
        ValueError: a product is missing, or one more than there should be.
    """
    # Counted first: a damaged number of layers may be any.
    shapes = list(widths.products()) if len(storage) == len(LAYER_PRODUCTS) * widths.layers + 1 else []
    if set(storage) != {name for name, _, _ in shapes}:
        raise ValueError("it does not name the products of such a decoder")
    products, end = {}, 0
    for name, inputs, outputs in shapes:
        stored = storage[name]
        wide, high = _round_up(inputs, stored.block or DEPTH), _round_up(outputs, PANEL)
        product = PackedProduct(stored, wide, high, _round_up(end, _PAGE), None, None)
        end = product.weights_offset + product.weights_bytes
        if stored.kind == "int8":
            scales = _round_up(end, _PAGE)
            corrections = _round_up(scales + 4 * high, _PAGE)
            product = PackedProduct(stored, wide, high, product.weights_offset, scales, corrections)
            end = corrections + 4 * high
        products[name] = product
    vectors = {}
    for name, length in widths.vectors():
        vectors[name] = _round_up(end, _LINE)
        end = vectors[name] + 4 * length
    return DecoderLayout(widths, products, vectors, _round_up(end, _PAGE))


def config_widths(config: DecoderConfig) -> DecoderWidths:
    """A model's widths; its epsilon is rounded to float32, as in its graph."""
    return DecoderWidths(
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        mlp=config.intermediate_size,
        vocab=config.vocab_size,
        epsilon=_float32(config.rms_norm_eps),
    )


def read_layout(folder: Path, config: DecoderConfig) -> DecoderLayout:
    """The layout of the packed weights in a directory.

    Args:
        folder: holds `decoder.json` and `decoder.weights`; of the second only its size is looked at.
        config: of the model that it should be.

    Raises:
        CacheError: one of them is missing, damaged, or of another model or release.
    """
    try:
        with (folder / LAYOUT_FILE).open("rb") as file:
            layout = _parse(json.loads(file.read(_MAX_LAYOUT_BYTES).decode("utf-8")))
        if layout.widths != (wanted := config_widths(config)):
            raise ValueError(f"it is of a decoder of {layout.widths}, not {wanted}")
        size = (folder / WEIGHTS_FILE).stat().st_size
        if size != layout.size_bytes:
            raise ValueError(f"{WEIGHTS_FILE} has {size} bytes, not {layout.size_bytes}")
    except (OSError, ValueError, RecursionError) as error:
        raise CacheError(
            f"the decoder's packed weights in {folder} cannot be used ({error}): run `neo-edge prepack` to build "
            "them anew"
        ) from error
    return layout


def _parse(data: object) -> DecoderLayout:
    """Reads `DecoderLayout.to_dict`'s form; raises `ValueError`."""
    parts = _record(data, ("format", "widths", "products", "vectors", "size_bytes"), LAYOUT_FILE)
    if parts["format"] != FORMAT:
        raise ValueError(f"its format is {parts['format']!r}; this release reads {FORMAT}")
    widths = _record(parts["widths"], [field.name for field in fields(DecoderWidths)], "its widths")
    products = parts["products"]
    if not isinstance(products, dict):
        raise ValueError("its products are no object")
    storage = {}
    for name, stored in products.items():
        if not isinstance(stored, dict):
            raise ValueError(f"what it says of {name} is no object")
        entry = _record(
            stored.get("storage"), [field.name for field in fields(Storage)], f"the storage of {name}"
        )
        storage[name] = Storage(**entry)
    layout = plan_layout(DecoderWidths(**widths), storage)
    if layout.to_dict() != parts:
        raise ValueError(f"{LAYOUT_FILE} contradicts itself")
    return layout


def _record(data: object, names: Collection[str], what: str) -> dict[str, Any]:  # values are JSON's
    if not isinstance(data, dict) or set(data) != set(names):
        raise ValueError(f"{what} has not the fields {', '.join(names)} and only these")
    return data


def _float32(value: float) -> float:
    """The nearest float32."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
