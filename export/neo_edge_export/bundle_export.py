"""From a checkpoint to a bundle: traces, streams weights, verifies, and only then gives the bundle its name."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from neo_edge import __version__
from neo_edge.bundle import BundleWriter
from neo_edge.chat_template import CHAT_TEMPLATE_FILE, NEO1_0_JINJA
from neo_edge.checkpoint import EMBEDDING, Checkpoint, expected_tensors, open_checkpoint
from neo_edge.config import ModelConfig
from neo_edge.manifest import CacheDtype, Manifest, OpsProfile, Producer, TokenEmbedding, Variant
from neo_edge.manifest_fields import JsonValue
from neo_edge.progress import progress
from neo_edge.tokenizer import Tokenizer, load_tokenizer, resolve_special_tokens
from neo_edge.tokens import SpecialTokens
from neo_edge_export.graph_contract import FLOAT, OPSET, Precision
from neo_edge_export.lowering import lowered_decoder, lowered_vision
from neo_edge_export.trace import DecoderTrace, VisionTrace
from neo_edge_export.verification import Verification, compared_layers, require_parity, verify
from neo_edge_export.weights import save_embedding, save_graph, streamed_tensors

_log = logging.getLogger(__name__)

_LAYER_NUMBER = r"\.\d+\."
COPIED_FILES = (CHAT_TEMPLATE_FILE, "generation_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ExportOptions:
    """What to write."""

    precisions: Sequence[Precision] = ("fp32",)  # of weights and caches
    ops: Sequence[OpsProfile] = ("modern",)  # with each precision; a pair makes a variant
    overwrite: bool = False  # replace a bundle that is there
    verify_layers: int | None = None  # decoder layers compared at a time; None: as many as fit in a gigabyte
    verify_slice: range | None = None  # the only decoder layers compared, where time is short; None: all


def export_bundle(
    checkpoint_directory: Path, target: Path, options: ExportOptions
) -> dict[str, Verification]:
    """Writes a bundle and gives what comparing it with the reference found, by variant.

    Args:
        checkpoint_directory: config.json, safetensors and tokenizer files; see `resolve_checkpoint` for names.
        target: the directory that the bundle shall be.
        options: variants, and whether a bundle that is there may be replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        InputError: the model does not have the layers of `verify_slice`.
        BundleError: the target cannot be written.
        ExportError: a weight does not fit a precision.
        ParityError: a written graph disagrees with the reference. No bundle is left in any of these cases.
    """
    checkpoint = open_checkpoint(checkpoint_directory)
    compared = compared_layers(checkpoint.config, options.verify_slice)
    tokenizer = load_tokenizer(checkpoint_directory)
    tokens = _special_tokens(tokenizer, checkpoint)
    with BundleWriter(target, overwrite=options.overwrite) as writer:
        writer.require_space(_weights_bytes(checkpoint.config, options))
        _copy_host_files(checkpoint_directory, tokenizer, writer.directory)
        manifest = Manifest(
            producer=Producer("neo_edge", __version__),
            model=checkpoint.config,
            special_tokens=tokens,
            tokenizer=tokenizer is not None,
            provenance=_provenance(checkpoint),
            variants=write_variants(checkpoint, writer.directory, options),
        )
        verifications = verify(
            writer.directory,
            manifest,
            checkpoint,
            layers_at_once=options.verify_layers,
            only=compared,
        )
        require_parity(verifications)
        measured = {
            name: replace(variant, quality={"verification": verifications[name].to_json()})
            for name, variant in manifest.variants.items()
        }
        writer.commit(replace(manifest, variants=measured))
    return verifications


def _weights_bytes(config: ModelConfig, options: ExportOptions) -> int:
    """What the weights of all variants take on the disk; the graphs themselves are small beside them."""
    numbers = sum(math.prod(shape) for shape in expected_tensors(config).values())
    if config.decoder.tie_word_embeddings:  # the head and the host's table are two files
        numbers += config.decoder.vocab_size * config.decoder.hidden_size
    sizes = (FLOAT[precision].itemsize for precision in set(options.precisions))
    return round(numbers * sum(sizes) * len(set(options.ops)))


def variant_name(precision: Precision, ops: OpsProfile) -> str:
    """`fp16` in the modern profile, `fp16-portable` in the portable one."""
    return precision if ops == "modern" else f"{precision}-portable"


def write_variants(checkpoint: Checkpoint, directory: Path, options: ExportOptions) -> dict[str, Variant]:
    """Writes the graphs, weights and embedding tables of all variants below a directory."""
    graphs = [
        each
        for precision in progress(list(dict.fromkeys(options.precisions)), "tracing", "precisions")
        for each in _trace(checkpoint.config, precision, list(dict.fromkeys(options.ops)))
    ]
    with progress(sum(each.tensors for each in graphs), "writing weights", "tensors") as bar:
        return {each.name: _write(each, checkpoint, directory, bar.update) for each in graphs}


def _trace(config: ModelConfig, precision: Precision, profiles: Sequence[OpsProfile]) -> list[_Graphs]:
    """Both profiles from one trace, which is not kept."""
    vision, decoder = VisionTrace(config, precision), DecoderTrace(config.decoder, precision)
    return [
        _Graphs(variant_name(precision, ops), precision, ops, vision.graph(ops), decoder.graph(ops))
        for ops in profiles
    ]


@dataclass(frozen=True)
class _Graphs:
    """The two graphs of one variant, whose weights have no values yet."""

    name: str
    precision: Precision
    ops: OpsProfile
    vision: ir.Model
    decoder: ir.Model

    @property
    def tensors(self) -> int:
        """How many tensors are to be written beside the graphs, the embedding among them."""
        return 1 + streamed_tensors(self.vision) + streamed_tensors(self.decoder)


def _write(
    graphs: _Graphs, checkpoint: Checkpoint, directory: Path, on_tensor: Callable[[], None]
) -> Variant:
    config, name = checkpoint.config, graphs.name
    folder = directory / name
    folder.mkdir()
    exceptions = _other_precisions(graphs)
    save_graph(graphs.vision, lowered_vision(config), checkpoint, folder / "vision.onnx", on_tensor)
    save_graph(
        graphs.decoder, lowered_decoder(config.decoder), checkpoint, folder / "decoder.onnx", on_tensor
    )
    dtype: CacheDtype = "float16" if graphs.precision == "fp16" else "float32"
    table = (config.decoder.vocab_size, config.decoder.hidden_size)
    save_embedding(checkpoint, EMBEDDING, table, dtype, folder / "token_embedding.bin")
    on_tensor()
    return Variant(
        precision=graphs.precision,
        ops=graphs.ops,
        opset=OPSET[graphs.ops],
        vision=f"{name}/vision.onnx",
        decoder=f"{name}/decoder.onnx",
        token_embedding=TokenEmbedding(f"{name}/token_embedding.bin", dtype, table),
        cache_dtype=dtype,
        layer_precision=exceptions,
    )


def _other_precisions(graphs: _Graphs) -> dict[str, JsonValue]:
    """Weights that are not of the variant's precision, `*` standing for every layer."""
    found: dict[str, JsonValue] = {}
    for part, model in (("vision", graphs.vision), ("decoder", graphs.decoder)):
        for name, value in model.graph.initializers.items():
            assert value.dtype is not None
            is_weight = value.const_value is None and value.dtype.is_floating_point()
            if is_weight and value.dtype != FLOAT[graphs.precision]:
                found[f"{part}.{re.sub(_LAYER_NUMBER, '.*.', name)}"] = value.dtype.numpy().name
    return found


def _special_tokens(tokenizer: Tokenizer | None, checkpoint: Checkpoint) -> SpecialTokens | None:
    """None when there is no tokenizer and config.json does not know the ids either."""
    config = checkpoint.config
    configured = (config.img_context_token_id, config.img_start_token_id, config.img_end_token_id)
    if tokenizer is None and None in configured:
        return None
    return resolve_special_tokens(tokenizer, config)


def _copy_host_files(source: Path, tokenizer: Tokenizer | None, target: Path) -> None:
    if tokenizer is not None:
        (target / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        (target / CHAT_TEMPLATE_FILE).write_text(NEO1_0_JINJA, encoding="utf-8")
    else:
        _log.warning("%s has no tokenizer: the bundle takes token ids only", source)
    for name in COPIED_FILES:  # the checkpoint's own template goes before ours
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _provenance(checkpoint: Checkpoint) -> dict[str, JsonValue]:
    return {
        "checkpoint": checkpoint.directory.resolve().name,
        "checkpoint_sha256": checkpoint.digest(),
        "numpy": np.__version__,
        "onnx_ir": ir.__version__,
        "torch": torch.__version__,
    }
