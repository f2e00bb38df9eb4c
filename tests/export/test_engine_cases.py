"""TensorRT-RTX builds the portable float16, INT8 and INT4 graphs into engines ahead of time, without a GPU.

A stand-in for the TensorRT of robots: its parser and its strong typing are those of TensorRT 11.
"""

from __future__ import annotations

from itertools import product

import pytest
from engine_cases import (
    COMPUTE_CAPABILITIES,
    QUANTIZED,
    EngineCase,
    engine_cases,
    nano_variants,
    table,
    write_slice,
)

from neo_edge_export.tensorrt.installed import Installed, find_tensorrt

# The whole slice's vocabulary takes minutes to write; `make evidence` builds it.
SMALL_VOCABULARY = 4096
NANO_LAYERS, SLICE_LAYERS = 6, 2
PARTS = ("decoder", "vision")
ONE_IS_ENOUGH = ("86",)  # for quantized variants; their own tests build them for the others


@pytest.fixture(scope="module")
def rtx() -> Installed:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
    )
    return find_tensorrt("tensorrt-rtx")


@pytest.fixture(scope="module")
def cases(rtx: Installed, tmp_path_factory: pytest.TempPathFactory) -> list[EngineCase]:
    fp16, *quantized = nano_variants(tmp_path_factory.mktemp("nano"))
    graphs = write_slice(tmp_path_factory.mktemp("slice"), "2b", layers=SLICE_LAYERS, vocab=SMALL_VOCABULARY)
    return [
        *engine_cases(rtx, "nano", fp16),
        *engine_cases(rtx, "slice of 2b", graphs),
        *(case for folder in quantized for case in engine_cases(rtx, "nano", folder, ONE_IS_ENOUGH)),
    ]


def test_every_engine_is_built_for_every_gpu(
    cases: list[EngineCase], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [case.refused for case in cases if case.refused] == []
    assert {(case.model, case.variant, case.part, case.compute_capability) for case in cases} == {
        *product(("nano", "slice of 2b"), ("fp16-portable",), PARTS, COMPUTE_CAPABILITIES),
        *product(("nano",), QUANTIZED, PARTS, ONE_IS_ENOUGH),
    }
    with capsys.disabled():
        print()
        print(*table(cases), sep="\n")


def test_a_plan_holds_its_weights_once_for_both_profiles(cases: list[EngineCase]) -> None:
    kernels = 24 << 20
    for case in cases:
        assert 0.98 * case.weight_bytes < case.plan_bytes < 1.15 * case.weight_bytes + kernels


def test_the_decoder_has_a_prefill_and_a_decode_profile_and_vision_one(cases: list[EngineCase]) -> None:
    assert {(case.part, case.profiles) for case in cases} == {("decoder", 2), ("vision", 1)}


def test_the_networks_are_float16_products_with_float32_softmax(cases: list[EngineCase]) -> None:
    for case in cases:
        network = case.network
        assert network is not None
        if case.variant in QUANTIZED:
            continue
        layers = NANO_LAYERS if case.model == "nano" else SLICE_LAYERS
        decoder = case.part == "decoder"
        assert network.matrix_products == {"HALF x HALF": 13 * layers + 1 if decoder else 2}
        assert network.softmax_layers == (layers if decoder else 0)


def test_every_projection_of_the_quantized_variants_is_a_product_of_their_type(
    cases: list[EngineCase],
) -> None:
    found = {
        (case.variant, case.part): case.network.matrix_products
        for case in cases
        if case.variant in QUANTIZED and case.network is not None
    }
    # Nine a layer and the head; the four of attention's scores and values stay float16.
    attention, projections = 4 * NANO_LAYERS, 9 * NANO_LAYERS
    assert found == {
        ("int8", "decoder"): {"INT8 x INT8": projections + 1, "HALF x HALF": attention},
        ("int8", "vision"): {"INT8 x INT8": 2},
        ("int4-portable", "decoder"): {
            "HALF x INT4": projections,
            "HALF x HALF": attention,
            "HALF x INT8": 1,
        },
        ("int4-portable", "vision"): {"HALF x INT8": 2},
    }


def test_a_refused_engine_is_shown_as_such_and_one_that_was_not_tried_too() -> None:
    built = EngineCase("m", "fp16", "decoder", "86", "", 1 << 20, 2 << 20, 1.25, 3 << 20, 2)
    refused = EngineCase("m", "fp16", "vision", "89", "why", 1 << 20)
    assert list(table([built, refused])) == [
        "| model | variant | engine | profiles | weights | SM86 | SM89 |",
        "|---|---|---|---|---|---|---|",
        "| m | fp16 | decoder | 2 | 1 MiB | 2 MiB, 1.2 s, 3 MiB | not tried |",
        "| m | fp16 | vision | 0 | 1 MiB | not tried | **refused** |",
    ]
