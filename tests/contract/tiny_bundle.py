"""A bundle of a few bytes: a sound manifest over files that hold no real graphs."""

from __future__ import annotations

from pathlib import Path

from neo_edge.bundle import BundleWriter
from neo_edge.config import ModelConfig
from neo_edge.manifest import Manifest, Producer, TokenEmbedding, Variant
from neo_edge.tokens import SpecialTokens

FILES = {
    "fp32/vision.onnx": b"vision graph",
    "fp32/vision.onnx.data": b"vision weights" * 100,
    "fp32/decoder.onnx": b"decoder graph",
    "fp32/decoder.onnx.data": b"decoder weights" * 100,
    "fp32/token_embedding.bin": bytes(320 * 64 * 4),
    "chat_template.jinja": b"{{ messages }}",
}


def tiny_manifest(config: ModelConfig) -> Manifest:
    """Without `files`, as an export hands it to the writer."""
    return Manifest(
        producer=Producer("neo-edge", "0.1.0"),
        model=config,
        special_tokens=SpecialTokens(317, 318, 319, (2, 0)),
        tokenizer=False,
        variants={
            "fp32": Variant(
                precision="fp32",
                ops="modern",
                opset=24,
                vision="fp32/vision.onnx",
                decoder="fp32/decoder.onnx",
                token_embedding=TokenEmbedding("fp32/token_embedding.bin", "float32", (320, 64)),
                cache_dtype="float32",
                quality={"prefill_logits_max_difference": 1e-6},
            )
        },
        provenance={"checkpoint_sha256": "00", "versions": {"onnx": "1.23.2"}},
    )


def write_files(directory: Path) -> None:
    """The files of the bundle, without a manifest."""
    for relative, content in FILES.items():
        path = directory / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_bundle(target: Path, config: ModelConfig, *, overwrite: bool = False) -> Manifest:
    """A whole bundle at `target`."""
    with BundleWriter(target, overwrite=overwrite) as writer:
        write_files(writer.directory)
        return writer.commit(tiny_manifest(config))
