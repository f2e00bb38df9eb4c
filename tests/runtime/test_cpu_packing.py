"""Packed weights lie where the layout says and are the graph's; a damaged layout is refused."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from quantized_decoders import EIGHT_BITS, FOUR_BITS, decoder_path, with_variants

from neo_edge.bundle import Bundle
from neo_edge.config import DecoderConfig
from neo_edge.errors import CacheError
from neo_edge_runtime.cpu import packing
from neo_edge_runtime.cpu.layout import (
    LAYOUT_FILE,
    WEIGHTS_FILE,
    DecoderLayout,
    DecoderWidths,
    PackedProduct,
    Storage,
    config_widths,
    plan_layout,
    read_layout,
)
from neo_edge_runtime.cpu.packing import pack
from neo_edge_runtime.cpu.recognition import DecoderWeights, StoredProduct, recognize

# No width is a multiple of what it is padded to.
ODD = DecoderConfig(
    vocab_size=37,
    hidden_size=100,
    intermediate_size=70,
    num_layers=2,
    num_heads=3,
    num_kv_heads=1,
    head_dim=12,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
    rope_theta_hw=1e4,
    max_positions=100,
    tie_word_embeddings=False,
)
STORAGES = [Storage("int8"), *(Storage("int4", block) for block in (32, 64, 128))]
Bytes = npt.NDArray[np.uint8]


def odd_weights() -> DecoderWeights:
    """Random ones, -128 among them, stored in all ways in turn."""
    random, widths = np.random.default_rng(5), config_widths(ODD)
    products = {}
    for index, (name, inputs, outputs) in enumerate(widths.products()):
        storage = STORAGES[index % 4]
        if storage.block is None:
            weight: npt.NDArray[Any] = random.integers(-128, 128, (inputs, outputs), np.int8)
            scale = random.random(outputs, np.float32)
        else:
            blocks = -(-inputs // storage.block)
            weight = random.integers(0, 256, (outputs, blocks, storage.block // 2), np.uint8)
            scale = random.random((outputs, blocks), np.float32)
        products[name] = StoredProduct(name, storage, inputs, outputs, weight, scale)
    vectors = {
        name: random.integers(0, 3, length).astype(np.int32 if name == "axis" else np.float32)
        for name, length in widths.vectors()
    }
    return DecoderWeights(widths, products, vectors)


def packed(weights: DecoderWeights, folder: Path, config: DecoderConfig) -> tuple[DecoderLayout, Bytes]:
    """Written and read again."""
    folder.mkdir(exist_ok=True)
    pack(weights, folder)
    assert sorted(path.name for path in folder.iterdir()) == [LAYOUT_FILE, WEIGHTS_FILE]
    return read_layout(folder, config), np.fromfile(folder / WEIGHTS_FILE, np.uint8)


def numbers(data: Bytes, offset: int | None, count: int, dtype: str) -> npt.NDArray[Any]:
    assert offset is not None
    return data[offset : offset + 4 * count].view(dtype)


def require_int8(data: Bytes, there: PackedProduct, product: StoredProduct) -> None:
    wanted = np.zeros((there.inputs, there.outputs), np.int64)
    wanted[: product.inputs, : product.outputs] = product.weight
    k, column = np.indices(wanted.shape)
    index = column // 16 * there.inputs * 16 + k // 4 * 64 + column % 16 * 4 + k % 4
    np.testing.assert_array_equal(data[there.weights_offset + index].view(np.int8), wanted)
    scales = numbers(data, there.scales_offset, there.outputs, "<f4")
    np.testing.assert_array_equal(scales[: product.outputs], product.scale)
    assert not scales[product.outputs :].any()
    corrections = numbers(data, there.corrections_offset, there.outputs, "<i4")
    np.testing.assert_array_equal(corrections, 128 * wanted.sum(axis=0))


def require_int4(data: Bytes, there: PackedProduct, product: StoredProduct) -> None:
    block = there.storage.block
    assert block is not None
    wanted = np.full((there.inputs, there.outputs), 8, np.int64)
    stored = product.weight.reshape(product.outputs, -1).T
    wanted[0::2, : product.outputs], wanted[1::2, : product.outputs] = stored & 15, stored >> 4
    k, column = np.indices(wanted.shape)
    block_bytes = 64 + block * 8
    start = (column // 16 * (there.inputs // block) + k // block) * block_bytes
    group = k % block // 4
    bytes_ = data[there.weights_offset + start + 64 + group // 2 * 64 + column % 16 * 4 + k % 4]
    np.testing.assert_array_equal(np.where(group % 2, bytes_ >> 4, bytes_ & 15), wanted)
    place = there.weights_offset + start[::block] + column[::block] % 16 * 4
    scales = data[place[..., None] + np.arange(4)].view("<f4")[..., 0]
    np.testing.assert_array_equal(scales[:, : product.outputs], product.scale.T)
    assert not scales[:, product.outputs :].any()


def require_equal(weights: DecoderWeights, layout: DecoderLayout, data: Bytes) -> None:
    assert layout.widths == weights.widths
    assert layout.products.keys() == weights.products.keys()
    assert data.size == layout.size_bytes
    for name, product in weights.products.items():
        there = layout.products[name]
        assert there.storage == product.storage
        (require_int8 if there.storage.kind == "int8" else require_int4)(data, there, product)
    for name, vector in weights.vectors.items():
        np.testing.assert_array_equal(
            numbers(data, layout.vectors[name], len(vector), "<i4" if name == "axis" else "<f4"), vector
        )


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_variants(tiny_bundle, tmp_path_factory.mktemp("packing") / "tiny", EIGHT_BITS, FOUR_BITS)


@pytest.mark.parametrize("variant", ["eight", "four"])
def test_what_is_packed_is_what_the_graph_holds(bundle: Bundle, variant: str, tmp_path: Path) -> None:
    config = bundle.manifest.model.decoder
    weights = recognize(onnx, decoder_path(bundle, variant), config)
    require_equal(weights, *packed(weights, tmp_path / "packed", config))


def test_odd_widths_are_padded_with_weights_of_zero(tmp_path: Path) -> None:
    weights = odd_weights()
    layout, data = packed(weights, tmp_path / "packed", ODD)
    require_equal(weights, layout, data)
    assert {
        (product.storage.block, there.inputs, there.outputs)
        for name in ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw")
        for product in [weights.products[f"layers.0.{name}"]]
        for there in [layout.products[f"layers.0.{name}"]]
    } == {(None, 128, 48), (32, 128, 48), (64, 128, 16), (128, 128, 16)}


def test_nothing_lies_over_anything_else_and_all_is_aligned() -> None:
    weights = odd_weights()
    layout = plan_layout(
        weights.widths, {name: product.storage for name, product in weights.products.items()}
    )
    places = [
        (offset, 4 * length) for name, length in weights.widths.vectors() for offset in [layout.vectors[name]]
    ]
    assert not any(offset % 64 for offset, _ in places)
    for product in layout.products.values():
        of_product = [(product.weights_offset, product.weights_bytes)]
        for offset in (product.scales_offset, product.corrections_offset):
            assert (offset is None) == (product.storage.kind == "int4")
            of_product += [] if offset is None else [(offset, 4 * product.outputs)]
        assert not any(offset % 4096 for offset, _ in of_product)
        places += of_product
    places.sort()
    ends = [offset + size for offset, size in places]
    assert all(end <= start for end, (start, _) in zip(ends, places[1:], strict=False))
    assert ends[-1] <= layout.size_bytes < ends[-1] + 4096


def test_slices_give_the_same_file_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = odd_weights()
    _, whole = packed(weights, tmp_path / "whole", ODD)
    monkeypatch.setattr(packing, "_SLICE_BYTES", 1)
    _, sliced = packed(weights, tmp_path / "sliced", ODD)
    np.testing.assert_array_equal(sliced, whole)


def test_written_bytes_are_told_and_large_weights_are_packed_in_little_memory(tmp_path: Path) -> None:
    config = replace(ODD, vocab_size=1 << 17, hidden_size=512, num_layers=1)  # the head is 67 MB
    widths, told = config_widths(config), list[int]()
    products = {
        name: StoredProduct(
            name,
            Storage("int8"),
            inputs,
            outputs,
            np.zeros((inputs, outputs), np.int8),
            np.ones(outputs, np.float32),
        )
        for name, inputs, outputs in widths.products()
    }
    vectors = {
        name: np.zeros(length, np.int32 if name == "axis" else np.float32)
        for name, length in widths.vectors()
    }
    tracemalloc.start()
    try:
        pack(DecoderWeights(widths, products, vectors), tmp_path, told.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    layout = read_layout(tmp_path, config)
    assert sum(told) == sum(product.weights_bytes for product in layout.products.values())
    assert max(told) <= 1 << 24
    assert peak < 60e6


def refused(folder: Path, config: DecoderConfig = ODD) -> str:
    with pytest.raises(CacheError) as caught:
        read_layout(folder, config)
    found = re.fullmatch(
        rf"the decoder's packed weights in {re.escape(str(folder))} cannot be used \((.*)\): "
        "run `neo-edge prepack` to build them anew",
        str(caught.value),
    )
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda data: data.pop("format"),
            "decoder.json has not the fields format, widths, products, vectors",
        ),
        (lambda data: data.pop("size_bytes"), "decoder.json has not the fields"),
        (lambda data: data.update(more=1), "decoder.json has not the fields"),
        (lambda data: data.update(format=2), "its format is 2; this release reads 1"),
        (lambda data: data.update(size_bytes=data["size_bytes"] + 4096), "contradicts itself"),
        (lambda data: data.update(widths=[1]), "its widths has not the fields layers"),
        (lambda data: data["widths"].pop("mlp"), "its widths has not the fields layers"),
        (lambda data: data["widths"].update(epsilon=1e-6), "it is of a decoder of .*, not DecoderWidths"),
        (lambda data: data.update(vectors=None), "contradicts itself"),
        (lambda data: data["vectors"].pop("norm"), "contradicts itself"),
        (lambda data: data["vectors"].update(axis=0), "contradicts itself"),
        (lambda data: data.update(products=[]), "its products are no object"),
        (lambda data: data["products"].pop("lm_head"), "it does not name the products of such a decoder"),
        (lambda data: data["products"].update(other=data["products"].pop("lm_head")), "it does not name"),
        (lambda data: data["products"].update(lm_head=None), "what it says of lm_head is no object"),
        (
            lambda data: data["products"]["lm_head"].pop("storage"),
            "the storage of lm_head has not the fields",
        ),
    ],
)
def test_a_damaged_layout_is_refused(damage: Callable[[Any], object], reason: str, tmp_path: Path) -> None:
    assert re.search(reason, refused_after(damage, tmp_path))


@pytest.mark.parametrize("name", ["layers.0.q_proj", "layers.0.q_proj_hw", "layers.1.k_proj", "lm_head"])
def test_a_damaged_product_is_refused(name: str, tmp_path: Path) -> None:
    """Each field removed, of another type, of another number."""
    pack(odd_weights(), tmp_path)
    product = json.loads((tmp_path / LAYOUT_FILE).read_text("utf-8"))["products"][name]
    fields = [
        ("storage", "kind"),
        ("storage", "block"),
        *((field,) for field in product if field != "storage"),
    ]
    assert len(fields) == 8
    for *within, field in fields:

        def holder(data: Any, within: list[str] = within) -> Any:
            return data["products"][name][within[0]] if within else data["products"][name]

        there = holder({"products": {name: product}})[field]
        assert refused_after(lambda data, of=field, at=holder: at(data).pop(of), tmp_path)
        for value in ("int4", "int8", "int2", ["int8"], None, -1, 0, 1.5, 32, 64, 128, 1 << 14, 10**30):
            if value != there:
                change = {field: value}
                assert refused_after(lambda data, to=change, at=holder: at(data).update(to), tmp_path)


def refused_after(damage: Callable[[Any], object], folder: Path) -> str:
    weights = odd_weights()
    if not (folder / WEIGHTS_FILE).exists():
        pack(weights, folder)
    layout = plan_layout(
        weights.widths, {name: product.storage for name, product in weights.products.items()}
    )
    data = json.loads(json.dumps(layout.to_dict()))
    damage(data)
    (folder / LAYOUT_FILE).write_text(json.dumps(data), "utf-8")
    return refused(folder)


@pytest.mark.parametrize("field", list(DecoderWidths.__dataclass_fields__))
def test_widths_that_are_damaged_or_another_models_are_refused(field: str, tmp_path: Path) -> None:
    pack(odd_weights(), tmp_path)
    text = (tmp_path / LAYOUT_FILE).read_text("utf-8")
    for value in (None, True, "1", 0, -1, 1.5, 10**30, float("nan")):
        data = json.loads(text)
        data["widths"][field] = value
        (tmp_path / LAYOUT_FILE).write_text(json.dumps(data), "utf-8")
        assert refused(tmp_path)
    data["widths"][field] = json.loads(text)["widths"][field] * 2
    (tmp_path / LAYOUT_FILE).write_text(json.dumps(data), "utf-8")
    assert re.search("contradicts itself|it is of a decoder of|it does not name", refused(tmp_path))


def test_files_that_are_missing_cut_or_no_layout_are_refused(tmp_path: Path) -> None:
    pack(odd_weights(), tmp_path)
    text, size = (tmp_path / LAYOUT_FILE).read_bytes(), (tmp_path / WEIGHTS_FILE).stat().st_size
    for damaged in (b"", text[:-10], b"[]", b"\xff" * 10, b"[" * 100_000):
        (tmp_path / LAYOUT_FILE).write_bytes(damaged)
        assert refused(tmp_path)
    (tmp_path / LAYOUT_FILE).write_bytes(text)
    assert "it is of a decoder of" in refused(tmp_path, replace(ODD, rms_norm_eps=1e-6))
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(size - 1)
    assert refused(tmp_path) == f"decoder.weights has {size - 1} bytes, not {size}"
    (tmp_path / WEIGHTS_FILE).unlink()
    assert "No such file" in refused(tmp_path)
    (tmp_path / LAYOUT_FILE).unlink()
    assert "No such file" in refused(tmp_path)
