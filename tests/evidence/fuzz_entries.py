"""Where input from outside comes in, each with strategies that break it and a check that it copes.

A check lets `NeoEdgeError` out, which is the typed refusal; everything else that comes out of it is a crash. What
is accepted must make sense.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz_mutations import Maker, broken_bytes, broken_json, inputs, random_bytes
from fuzz_pictures import pictures, repaired
from hypothesis import strategies as st

from neo_edge.checkpoint import expected_tensors
from neo_edge.config import ModelConfig, load_config
from neo_edge.manifest import FileEntry, Manifest, Producer, TokenEmbedding, Variant, parse_manifest
from neo_edge.prompt import Message, encode_chat, place_frames
from neo_edge.safetensors_file import read_header
from neo_edge.tokenizer import load_tokenizer
from neo_edge.tokens import SpecialTokens
from neo_edge_runtime.image_input import load_image
from neo_edge_runtime.preprocessing import PixelLimits, size_image

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny"
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>")


@dataclass(frozen=True)
class Entry:
    """One way in."""

    name: str
    share: float  # of all inputs
    inputs: st.SearchStrategy[list[Any]]  # several at a time
    check: Callable[[Any], None]


def entries(folder: Path) -> list[Entry]:
    """All ways in; files are written into a folder."""
    config = load_config(GOLDEN)
    return [
        Entry("manifest", 0.25, inputs(*_json(json.loads(_manifest(config).to_json()))), _check_manifest),
        Entry(
            "safetensors header",
            0.2,
            _safetensors(),
            lambda data: _check_safetensors(folder / "x.safetensors", data),
        ),
        Entry("config", 0.25, _configs(), lambda data: _check_config(folder, data)),
        Entry("prompt", 0.2, _prompts(), _prompt_check(folder)),
        Entry("image", 0.1, _images(), lambda data: _check_image(config, data)),
    ]


def _json(*documents: Any) -> tuple[Maker, ...]:
    plain = [json.dumps(document).encode() for document in documents]
    return (broken_json(documents), broken_json(documents), broken_bytes(plain), random_bytes((b"", b"{")))


def _manifest(config: ModelConfig) -> Manifest:
    names = ("fp32/vision.onnx", "fp32/decoder.onnx", "fp32/token_embedding.bin")
    shape = (config.decoder.vocab_size, config.decoder.hidden_size)
    table = TokenEmbedding(names[2], "float32", shape)
    sizes = (1000, 2000, table.size_bytes)
    return Manifest(
        producer=Producer("neo_edge", "0.1.0"),
        model=config,
        special_tokens=SpecialTokens(317, 318, 319, (2, 0)),
        tokenizer=False,
        variants={"fp32": Variant("fp32", "modern", 24, *names[:2], table, "float32")},
        provenance={"checkpoint": "tiny"},
        files={name: FileEntry(size, "0" * 64) for name, size in zip(names, sizes, strict=True)},
    )


def _check_manifest(data: bytes) -> None:
    found = parse_manifest(data.decode(errors="surrogateescape"))
    assert parse_manifest(found.to_json()) == found


def _safetensors() -> st.SearchStrategy[list[bytes]]:
    arrays = {
        name: np.zeros(shape, np.float32)
        for name, shape in (("a", (2, 3)), ("b", (4,)), ("c", ()), ("d", (0, 5)))
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    data = bytes(end)

    def framed(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    whole = framed(json.dumps(header).encode())
    broken_header = broken_json([header])

    def headers(random: Random) -> bytes:
        return framed(broken_header(random))

    return inputs(headers, headers, broken_bytes([whole]), random_bytes((b"", b"\x02\0\0\0\0\0\0\0{}")))


def _check_safetensors(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for entry in read_header(path).values():
        assert entry.read().shape == entry.shape


def _configs() -> st.SearchStrategy[list[bytes]]:
    config = json.loads((GOLDEN / "config.json").read_text())
    generation = {"eos_token_id": [843, 841], "pad_token_id": 841}
    return inputs(*_json(config), *_json(config), *_json(generation))


def _check_config(folder: Path, data: bytes) -> None:
    """As config.json; what looks like a generation config as that, too, beside a whole config.json."""
    of_generation = b"pad_token" in data and b"llm" not in data
    (folder / "config.json").write_bytes((GOLDEN / "config.json").read_bytes() if of_generation else data)
    (folder / "generation_config.json").write_bytes(data if of_generation else b"{}")
    found = load_config(folder)
    assert ModelConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert len(expected_tensors(found)) < 20_000


def _prompts() -> st.SearchStrategy[list[Any]]:
    pieces = st.one_of(
        st.sampled_from(
            (*CONTROL, "<image>", "<ref>", "<box>", "user\n", "\0", "\ud800", "e\u0301", "\U0001f468")
        ),
        st.text(max_size=20),
        st.text(alphabet=st.characters(codec=None, categories=None), max_size=5),
    )
    text = st.lists(pieces, max_size=6).map("".join)
    message = st.tuples(st.sampled_from(("user", "assistant")), text, st.integers(-1, 3))
    alternating = st.lists(st.tuples(text, st.integers(0, 2)), min_size=1, max_size=3).map(
        lambda turns: [
            message
            for index, (words, images) in enumerate(turns)
            for message in ([("assistant", words, 0)] if index else []) + [("user", words, images)]
        ]
    )
    messages = st.one_of(alternating, alternating, st.lists(message, max_size=4))
    times = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(), st.integers(0, 9)), max_size=3))
    counts = st.one_of(st.none(), st.none(), st.lists(st.integers(-1, 40), max_size=4))
    style = st.sampled_from(("inline", "numbered"))
    drawn = st.tuples(messages, counts, st.one_of(st.just(""), text), style, times, st.floats(), st.floats())
    return st.lists(drawn, min_size=4, max_size=4)


def _prompt_check(folder: Path) -> Callable[[Any], None]:
    from byte_tokenizer import write_byte_tokenizer

    write_byte_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    control = {tokenizer.special_id(token): token for token in CONTROL}

    def check(drawn: tuple[Any, ...]) -> None:
        turns, counts, system, style, times, duration_s, fps = drawn
        if times is not None:
            place_frames("what?", times, duration_s=duration_s, fps=fps, style=style)
        messages = [Message(*turn) for turn in turns]
        if counts is None:
            counts = [3] * sum(message.images for message in messages)
        ids = encode_chat(tokenizer, messages, counts, system=system, style=style)
        # Control tokens stand where the template puts them, and nobody's text adds one.
        found = [control[token] for token in ids if token in control and control[token] != "<IMG_CONTEXT>"]
        wanted: list[str] = ["<|im_start|>", "<|im_end|>"] if system else []
        for message in messages:
            wanted += ["<|im_start|>", *["<img>", "</img>"] * message.images, "<|im_end|>"]
        assert found == [*wanted, "<|im_start|>"], (found, wanted)
        assert ids.count(tokenizer.special_id("<IMG_CONTEXT>")) == sum(counts)

    return check


def _images() -> st.SearchStrategy[list[bytes]]:
    files = pictures()
    whole = broken_bytes(files, repaired)
    return inputs(whole, whole, random_bytes([data[:12] for data in files]))


def _check_image(config: ModelConfig, data: bytes) -> None:
    image = load_image(data)
    assert image.mode == "RGB"
    sized = size_image(image, config.vision, PixelLimits(config.vision.min_pixels, 1024 * 32 * 32))
    assert sized.pixels.shape == (sized.grid.rows * 16, sized.grid.cols * 16, 3)
