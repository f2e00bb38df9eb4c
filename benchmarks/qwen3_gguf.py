"""A plain Qwen3 of NEO-ov 2B's widths with random weights, as a GGUF file; run by the peer's own interpreter.

    python qwen3_gguf.py FILE WIDTHS_AS_JSON

The package `gguf` writes it, in float16; llama.cpp quantizes it afterwards. Random numbers serve, since speed does not
depend on them. There is no tokenizer: ids go in.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

_DEVIATION = 0.02
_EPSILON = 1e-6
_THETA = 5e6
_BLOCK = 1 << 22  # random numbers that are drawn once and repeated
_HEAD_TENSORS = ("output.weight",)


@dataclass(frozen=True)
class Widths:
    """What decides a plain Qwen3's shapes."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    layers: int

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Widths:
        """Back again."""
        return cls(**json.loads(text))


def qwen3_tensors(widths: Widths) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes (outputs first, as PyTorch has them) of all tensors; the head is not tied to the table."""
    hidden, query, key = widths.hidden, widths.heads * widths.head_dim, widths.kv_heads * widths.head_dim
    yield "token_embd.weight", (widths.vocab, hidden)
    for layer in range(widths.layers):
        shapes = {
            "attn_norm": (hidden,),
            "attn_q": (query, hidden),
            "attn_k": (key, hidden),
            "attn_v": (key, hidden),
            "attn_q_norm": (widths.head_dim,),
            "attn_k_norm": (widths.head_dim,),
            "attn_output": (hidden, query),
            "ffn_norm": (hidden,),
            "ffn_gate": (widths.mlp, hidden),
            "ffn_up": (widths.mlp, hidden),
            "ffn_down": (hidden, widths.mlp),
        }
        yield from ((f"blk.{layer}.{name}.weight", shape) for name, shape in shapes.items())
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (widths.vocab, hidden)


def product_shapes(widths: Widths) -> Iterator[tuple[int, int, bool]]:
    """Inputs, outputs, and whether it is the head, of every matrix product of a step."""
    for name, shape in qwen3_tensors(widths):
        if len(shape) == 2 and name != "token_embd.weight":
            yield shape[1], shape[0], name in _HEAD_TENSORS


def write_gguf(path: Path, widths: Widths, context: int) -> None:
    """Writes the file; a tensor at a time."""
    gguf = importlib.import_module("gguf")  # in the peer's environment alone
    writer = gguf.GGUFWriter(path, "qwen3", use_temp_file=True)
    writer.add_context_length(context)
    writer.add_embedding_length(widths.hidden)
    writer.add_block_count(widths.layers)
    writer.add_feed_forward_length(widths.mlp)
    writer.add_head_count(widths.heads)
    writer.add_head_count_kv(widths.kv_heads)
    writer.add_key_length(widths.head_dim)
    writer.add_value_length(widths.head_dim)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_rope_freq_base(_THETA)
    writer.add_vocab_size(widths.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    numbers = (_DEVIATION * np.random.default_rng(0).standard_normal(_BLOCK)).astype(np.float16)
    for name, shape in qwen3_tensors(widths):
        tensor = np.ones(shape, np.float32) if len(shape) == 1 else np.resize(numbers, shape)
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Widths.from_json(sys.argv[2]), context=4096)
