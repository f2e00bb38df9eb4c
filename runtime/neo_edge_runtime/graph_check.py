"""Whether a loaded graph is the one that the manifest describes: names, sizes and types of what goes in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neo_edge.errors import BundleCorruptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neo_edge.config import ModelConfig
    from neo_edge.manifest import Variant

_Shapes = dict[str, tuple[int | None, ...]]
_FLOAT = {"float32": "tensor(float)", "float16": "tensor(float16)"}


def require_vision_graph(
    session: Any, config: ModelConfig, variant: Variant
) -> None:  # onnxruntime has no types
    """Raises `BundleCorruptError` when the vision graph is another model's."""
    hidden = (None, config.decoder.hidden_size)
    _require(
        session.get_inputs(),
        {"patches": (None, config.vision.patch_dim), "patch_xy": (None, 2)},
        variant.vision,
    )
    _require(session.get_outputs(), {"visual_tokens": hidden}, variant.vision, variant.embedding_dtype)


def require_decoder_graph(session: Any, config: ModelConfig, variant: Variant) -> None:
    """Raises `BundleCorruptError` when the decoder graph is another model's, or of another type."""
    decoder = config.decoder
    caches: _Shapes = {}
    for layer in range(decoder.num_layers):
        caches[f"key_cache.{layer}"] = (None, decoder.num_kv_heads, None, decoder.key_dim)
        caches[f"value_cache.{layer}"] = (None, decoder.num_kv_heads, None, decoder.head_dim)
    small: _Shapes = {
        "position_ids": (None, 3, None),
        "visible_length": (None, None),
        "write_index": (None,),
        "logits_index": (None, None),
    }
    inputs = session.get_inputs()
    _require(inputs, {"inputs_embeds": (None, None, decoder.hidden_size), **small, **caches}, variant.decoder)
    typed = [value for value in inputs if value.name in caches]
    _require(typed, caches, variant.decoder, variant.cache_dtype)
    logits = [value for value in session.get_outputs() if value.name == "logits"]
    _require(logits, {"logits": (None, None, decoder.vocab_size)}, variant.decoder)


def _require(
    values: Any, wanted: Mapping[str, tuple[int | None, ...]], file: str, dtype: str | None = None
) -> None:
    found = {value.name: value for value in values}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    for name, shape in wanted.items():
        if name in found and not _fits(found[name].shape, shape):
            wrong.append(f"{name} is {found[name].shape}, {list(shape)} is wanted")
        if name in found and dtype is not None and found[name].type != _FLOAT[dtype]:
            wrong.append(f"{name} is {found[name].type}, {_FLOAT[dtype]} is wanted")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BundleCorruptError(
            f"{file} is not the graph that bundle.json describes ({'; '.join(wrong[:3])}{more}): copy or export again"
        )


def _fits(found: list[int | str], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(
        size is None or isinstance(there, str) or there == size
        for there, size in zip(found, wanted, strict=True)
    )
