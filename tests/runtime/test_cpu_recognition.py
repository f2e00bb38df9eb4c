"""Only the decoder that neo_edge writes with 8-bit and 4-bit weights is taken for it; the rest is told why not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized_decoders import EIGHT_BITS, FOUR_BITS, changed, decoder_path, with_variants

from neo_edge.bundle import Bundle
from neo_edge.checkpoint import resolve_checkpoint
from neo_edge.errors import BundleCorruptError
from neo_edge_export.bundle_export import ExportOptions, export_bundle
from neo_edge_export.quantization.recipe import LayerRule, Recipe
from neo_edge_export.quantization.recipes import RECIPES
from neo_edge_runtime.cpu.layout import Storage
from neo_edge_runtime.cpu.recognition import DecoderWeights, NotRecognized, recognize

FOREIGN = (
    Recipe("static", "", "portable", (LayerRule("*", "w8a8-tensor"),)),
    Recipe("weights", "", "modern", (LayerRule("*", "w8"),)),
    Recipe("kept", "", "modern", (LayerRule("*.1.mlp.down_proj", "float"), LayerRule("*", "w8a8-token"))),
    Recipe("fine", "", "modern", (LayerRule("*", "w4", group_size=16),)),
    Recipe("half", "", "modern", (LayerRule("*", "w4", group_size=32),), scale_type="float16"),
    Recipe(
        "mixed",
        "",
        "modern",
        (LayerRule("*.2.*.v_proj", "w4", group_size=32), LayerRule("*", "w4", group_size=64)),
    ),
)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_variants(
        tiny_bundle, tmp_path_factory.mktemp("recognition") / "tiny", EIGHT_BITS, FOUR_BITS, *FOREIGN
    )


def recognized(bundle: Bundle, variant: str) -> DecoderWeights:
    return recognize(onnx, decoder_path(bundle, variant), bundle.manifest.model.decoder)


def refusal(bundle: Bundle, path: Path) -> str:
    with pytest.raises(NotRecognized) as caught:
        recognize(onnx, path, bundle.manifest.model.decoder)
    reason = str(caught.value)
    assert reason
    assert "\n" not in reason
    return reason


def node_of(model: Any, name: str) -> Any:
    return next(node for node in model.graph.node if node.name == name)


def tensor_of(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def test_all_products_of_8_bits_are_found_with_their_weights(bundle: Bundle) -> None:
    found = recognized(bundle, "eight")
    widths = found.widths
    assert [
        (name, product.name, product.inputs, product.outputs) for name, product in found.products.items()
    ] == [(name, name, inputs, outputs) for name, inputs, outputs in widths.products()]
    model = onnx.load(str(decoder_path(bundle, "eight")))  # with its external data
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def weight_name(name: str) -> str:
        layer, _, last = name.rpartition(".")
        (one,) = (there for there in stored if re.fullmatch(rf"{layer}\W?(\w+\.)?{last}\.weight", there))
        return one

    for name, product in found.products.items():
        assert product.storage == Storage("int8")
        np.testing.assert_array_equal(product.weight, stored[weight_name(name)])
        np.testing.assert_array_equal(product.scale, stored[f"{weight_name(name)}_scale"])
    for name, vector in found.vectors.items():
        table = name in ("axis", "frequency")
        np.testing.assert_array_equal(vector, stored[name if table else weight_name(name)])
    assert [(name, len(vector)) for name, vector in found.vectors.items()] == list(widths.vectors())
    assert {vector.dtype.name for vector in found.vectors.values()} == {"float32", "int32"}
    assert found.vectors["axis"].dtype == np.int32
    assert widths.epsilon == np.float32(1e-6)


def test_products_of_4_bits_may_stand_beside_some_of_8_bits(bundle: Bundle) -> None:
    found = recognized(bundle, "four").products
    eight = {name for name, product in found.items() if product.storage.kind == "int8"}
    assert eight == {"lm_head", "layers.1.k_proj", "layers.1.k_proj_hw", "layers.2.down_proj"}
    for name, block, weight, scale in (
        ("layers.0.down_proj", 32, (64, 5, 16), (64, 5)),
        ("layers.1.gate_proj", 64, (160, 1, 32), (160, 1)),
    ):
        product = found[name]
        assert (product.storage, product.weight.shape, product.scale.shape) == (
            Storage("int4", block),
            weight,
            scale,
        )


def test_the_nano_is_recognized_as_the_recipes_write_it(tmp_path: Path) -> None:
    options = ExportOptions(verify_slice=range(1))
    export_bundle(resolve_checkpoint("neo-ov-nano"), tmp_path / "float", options)
    recipes = [RECIPES["int8-dynamic"], RECIPES["int4"]]
    nano = with_variants(tmp_path / "float", tmp_path / "nano", *recipes)
    kinds = {
        recipe.name: [product.storage.kind for product in recognized(nano, recipe.name).products.values()]
        for recipe in recipes
    }
    assert kinds == {"int8-dynamic": ["int8"] * 55, "int4": ["int4"] * 54 + ["int8"]}


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("fp32", "layers.0.self_attn.q_proj is in float32, for MatMul"),
        (
            "fp16",
            "inputs_embeds float16 [batch, sequence, 64] stands where inputs_embeds float32 [batch, sequence, 64]"
            " should",
        ),
        (
            "fp32-portable",
            "new_keys.0 float32 [batch, 2, sequence, 32] stands where key_cache_out.0 float32 [batch, 2, capacity, 32]"
            " should",
        ),
        (
            "static",
            "new_keys.0 float32 [batch, 2, sequence, 32] stands where key_cache_out.0 float32 [batch, 2, capacity, 32]"
            " should",
        ),
        ("weights", "layers.0.self_attn.q_proj is in int8, for DequantizeLinear"),
        ("kept", "layers.1.mlp.down_proj is in float32, for MatMul"),
        ("fine", "layers.0.self_attn.q_proj: no kernel reads int4 weights in blocks of 16"),
        (
            "mixed",
            "what reads the same numbers has layers.2.v_proj in blocks of 32 and layers.2.k_proj_hw in blocks of 64",
        ),
        (
            "half",
            "Cast 'layers.0.self_attn.q_proj.Cast' is not, or not so, in the decoder that neo_edge writes",
        ),
    ],
)
def test_other_variants_are_refused_with_their_difference(bundle: Bundle, variant: str, reason: str) -> None:
    assert refusal(bundle, decoder_path(bundle, variant)) == reason


@pytest.mark.parametrize(
    "field", ["rms_norm_eps", "num_layers", "head_dim", "vocab_size", "intermediate_size"]
)
def test_another_models_graph_is_refused(bundle: Bundle, field: str) -> None:
    config = bundle.manifest.model.decoder
    other = replace(config, **{field: getattr(config, field) * 2})
    with pytest.raises(NotRecognized):
        recognize(onnx, decoder_path(bundle, "eight"), other)


def test_names_of_nodes_and_of_what_lies_between_them_do_not_count(bundle: Bundle, tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        ends = {value.name for value in model.graph.output}
        inner = {name for node in model.graph.node for name in node.output} - ends
        for node in model.graph.node:
            node.name = f"renamed.{node.name}"
            for names in (node.input, node.output):
                names[:] = [f"renamed.{name}" if name in inner else name for name in names]

    path = changed(decoder_path(bundle, "four"), tmp_path / "renamed", rename)
    assert (
        recognize(onnx, path, bundle.manifest.model.decoder).products.keys()
        == dict(recognized(bundle, "four").products).keys()
    )


@pytest.mark.parametrize("variant", ["eight", "four"])
def test_a_graph_that_differs_in_one_node_is_refused(bundle: Bundle, variant: str, tmp_path: Path) -> None:
    decoder = decoder_path(bundle, variant)
    nodes = onnx.load(str(decoder), load_external_data=False).graph.node
    first = [
        index for index, node in enumerate(nodes) if not node.name.startswith(("layers.0.", "layers.2."))
    ]
    tried = 0
    for index in first:
        for change in node_changes(nodes[index], index):
            refusal(bundle, changed(decoder, tmp_path / variant, change))
            tried += 1
    assert tried > 5 * len(first)


def node_changes(node: Any, index: int) -> Iterator[Callable[[Any], object]]:
    """The node dropped, doubled, of another type, with each input from elsewhere and each attribute changed."""
    yield lambda model: model.graph.node.pop(index)

    def double(model: Any) -> None:
        again = model.graph.node.add()
        again.CopyFrom(model.graph.node[index])
        again.output[:] = [f"{name}.again" for name in again.output]

    yield double
    yield lambda model: setattr(model.graph.node[index], "op_type", "Identity")
    yield lambda model: setattr(model.graph.node[index], "domain", "else.where")
    for place, name in enumerate(node.input):
        other = "inputs_embeds" if name != "inputs_embeds" else "position_ids"
        yield lambda model, at=place, to=other: model.graph.node[index].input.__setitem__(at, to)
    yield lambda model: model.graph.node[index].input.append("inputs_embeds")
    for place, attribute in enumerate(node.attribute):
        yield lambda model, at=place: model.graph.node[index].attribute.pop(at)
        for field in ("i", "f", "ints"):
            if attribute.HasField(field) if field != "ints" else len(attribute.ints):
                yield lambda model, at=place, of=field: alter(model.graph.node[index].attribute[at], of)
    yield lambda model: model.graph.node[index].attribute.add(name="more", type=2, i=1)


def alter(attribute: Any, field: str) -> None:
    if field == "ints":
        attribute.ints[:] = attribute.ints[::-1]
    else:
        setattr(attribute, field, getattr(attribute, field) + 1)


def test_a_changed_constant_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    decoder = decoder_path(bundle, "four")
    names = [
        tensor.name
        for tensor in onnx.load(str(decoder), load_external_data=False).graph.initializer
        if tensor.name.startswith(("constant.", "quantization."))
    ]
    assert len(names) == 6 + 5
    for name in names:
        for change in (lambda values: values + 1, lambda values: values.astype(np.float64), np.atleast_2d):

            def put(model: Any, name: str = name, change: Callable[[Any], Any] = change) -> None:
                tensor = tensor_of(model, name)
                values = np.asarray(change(numpy_helper.to_array(tensor)))
                tensor.CopyFrom(numpy_helper.from_array(values, name))

            assert re.search("is not, or not so", refusal(bundle, changed(decoder, tmp_path / "x", put)))


def test_reasons_name_what_differs(bundle: Bundle, tmp_path: Path) -> None:
    def said(change: Callable[[Any], object]) -> str:
        return refusal(bundle, changed(decoder_path(bundle, "eight"), tmp_path / "changed", change))

    norm, attention = "layers.1.post_attention_layernorm.RMSNormalization", "layers.2.self_attn.Attention"

    def epsilon(model: Any) -> None:
        next(one for one in node_of(model, norm).attribute if one.name == "epsilon").f = 2e-6

    def scale(model: Any) -> None:
        node_of(model, attention).attribute[0].f = 0.5

    def extra(model: Any) -> None:
        model.graph.node.add(name="extra", op_type="Abs", input=["logits"], output=["absolute"])

    def missing(model: Any) -> None:
        tensor_of(model, "layers.1.mlp.up_proj.weight").name = "other"

    def overridden(model: Any) -> None:
        tensor_of(model, "constant.0").name = "write_index"

    def twice(model: Any) -> None:
        tensor_of(model, "constant.0").name = "constant.1"

    def axis(model: Any) -> None:
        values = numpy_helper.to_array(tensor_of(model, "axis")) + 1
        tensor_of(model, "axis").CopyFrom(numpy_helper.from_array(values, "axis"))

    def shape(model: Any) -> None:
        tensor_of(model, "lm_head.weight").dims[:] = [320, 64]

    def opset(model: Any) -> None:
        model.opset_import[0].version = 23

    ending = "is not, or not so, in the decoder that neo_edge writes"
    assert said(epsilon) == f"RMSNormalization '{norm}' {ending}"
    assert said(scale) == f"Attention '{attention}' {ending}"
    assert said(extra) == f"Abs 'extra' {ending}"
    assert re.fullmatch(
        "MatMulIntegerToFloat .* reads 'layers.1.mlp.up_proj.weight', which nothing gives", said(missing)
    )
    assert said(overridden) == "write_index has a value of its own"
    assert said(twice) == "two of its weights have one name"
    assert said(axis) == "its positions are taken from axes [1, 2, 3]"
    assert said(shape) == "lm_head.weight is ('int8', (320, 64)), not ('int8', (64, 320))"
    assert said(opset).startswith("it is written in {'': 23, 'com.microsoft': 1}")


def test_weights_that_are_not_where_the_graph_says_are_damage(bundle: Bundle, tmp_path: Path) -> None:
    decoder, config = decoder_path(bundle, "eight"), bundle.manifest.model.decoder

    def place(key: str, value: str) -> Callable[[Any], object]:
        def change(model: Any) -> None:
            entries = tensor_of(model, "layers.0.mlp.up_proj.weight").external_data
            next(entry for entry in entries if entry.key == key).value = value

        return change

    outside = f"../{bundle.root.name}/x"
    for change, said in (
        (place("offset", "100000000"), "should lie in 10240 from 100000000 on, of a file of"),
        (place("offset", "-1"), "from -1 on"),
        (place("offset", "first"), "cannot be found .*'first'"),
        (place("length", "10239"), "has 10240 bytes and should lie in 10239"),
        (place("location", "none.data"), "cannot be found .*No such file"),
        (place("location", outside), "does not lie beside the graph"),
        (place("location", ".."), "cannot be found"),
        (lambda model: setattr(tensor_of(model, "axis"), "raw_data", b"123"), "axis cannot be read"),
    ):
        path = changed(decoder, tmp_path / "damaged", change)
        with pytest.raises(
            BundleCorruptError, match=rf"^{re.escape(str(path))} is damaged: .*{said}.*again$"
        ):
            recognize(onnx, path, config)


def test_truncated_files_are_damage(bundle: Bundle, tmp_path: Path) -> None:
    decoder, config = decoder_path(bundle, "eight"), bundle.manifest.model.decoder
    data = decoder.with_name("decoder.onnx.data").read_bytes()
    for kept in (0, 1, len(data) // 2, len(data) - 1):
        (tmp_path / "decoder.onnx.data").write_bytes(data[:kept])
        path = changed(decoder, tmp_path, lambda _: None)
        with pytest.raises(BundleCorruptError, match="is damaged: .*Copy or export it again"):
            recognize(onnx, path, config)
    (tmp_path / "decoder.onnx").write_bytes(decoder.read_bytes()[:-100])
    with pytest.raises(BundleCorruptError, match="cannot be read as a graph"):
        recognize(onnx, tmp_path / "decoder.onnx", config)
    with pytest.raises(BundleCorruptError, match="cannot be read as a graph"):
        recognize(onnx, tmp_path / "nothing.onnx", config)


def test_recognizing_and_packing_are_imported_without_onnx() -> None:
    code = (
        "import sys, neo_edge_runtime.cpu.recognition, neo_edge_runtime.cpu.packing\n"
        "print(*{'onnx', 'google', 'neo_edge_export', 'neo_edge_calibration', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
