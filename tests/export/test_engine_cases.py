"""TensorRT-RTX builds the portable float16, INT8 and INT4 graphs into engines ahead of time, without a GPU.

A stand-in for the TensorRT of robots: its parser and its strong typing are those of TensorRT 11. It takes minutes, so
`make engine-cases` runs it and `make test` does not.
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
    slice_variants,
    table,
)

from neo_edge_export.tensorrt.installed import Installed, find_tensorrt

# The whole vocabulary takes minutes to write and quantize; `make evidence` builds it.
SMALL_VOCABULARY = 4096
SLICE_LAYERS = 2
LAYERS = {"nano": 6, "slice of 2b": SLICE_LAYERS}
PARTS = ("decoder", "vision")
VARIANTS = ("fp16-portable", *QUANTIZED)


@pytest.fixture(scope="module")
def rtx() -> Installed:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="the tensorrt-rtx-cu13-bindings wheel is not installed"
    )
    return find_tensorrt("tensorrt-rtx")


@pytest.fixture(scope="module")
def cases(rtx: Installed, tmp_path_factory: pytest.TempPathFactory) -> list[EngineCase]:
    graphs = {
        "nano": nano_variants(tmp_path_factory.mktemp("nano")),
        "slice of 2b": slice_variants(
            tmp_path_factory.mktemp("slice"), "2b", layers=SLICE_LAYERS, vocab=SMALL_VOCABULARY
        ),
    }
    return [
        case
        for model, folders in graphs.items()
        for folder in folders
        for case in engine_cases(rtx, model, folder)
    ]


@pytest.mark.engine_cases
def test_every_engine_is_built_for_every_gpu(
    cases: list[EngineCase], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [case.refused for case in cases if case.refused] == []
    assert {(case.model, case.variant, case.part, case.compute_capability) for case in cases} == {
        *product(LAYERS, VARIANTS, PARTS, COMPUTE_CAPABILITIES)
    }
    with capsys.disabled():
        print()
        print(*table(cases), sep="\n")


@pytest.mark.engine_cases
def test_a_plan_holds_its_weights_once_for_both_profiles(cases: list[EngineCase]) -> None:
    kernels = 24 << 20
    for case in cases:
        assert 0.98 * case.weight_bytes < case.plan_bytes < 1.15 * case.weight_bytes + kernels


@pytest.mark.engine_cases
def test_the_decoder_has_a_prefill_and_a_decode_profile_and_vision_one(cases: list[EngineCase]) -> None:
    assert {(case.part, case.profiles) for case in cases} == {("decoder", 2), ("vision", 1)}


@pytest.mark.engine_cases
def test_every_product_is_of_its_variants_type_and_softmax_is_float32(cases: list[EngineCase]) -> None:
    for case in cases:
        network = case.network
        assert network is not None
        layers = LAYERS[case.model]
        # Nine projections a layer and the head; the four of attention's scores and values stay float16.
        attention, projections = 4 * layers, 9 * layers
        products: dict[tuple[str, str], dict[str, int]] = {
            ("fp16-portable", "decoder"): {"HALF x HALF": attention + projections + 1},
            ("fp16-portable", "vision"): {"HALF x HALF": 2},
            ("int8", "decoder"): {"INT8 x INT8": projections + 1, "HALF x HALF": attention},
            ("int8", "vision"): {"INT8 x INT8": 2},
            ("int4-portable", "decoder"): {
                "HALF x INT4": projections,
                "HALF x HALF": attention,
                "HALF x INT8": 1,
            },
            ("int4-portable", "vision"): {"HALF x INT8": 2},
        }
        assert network.matrix_products == products[case.variant, case.part]
        assert network.softmax_layers == (layers if case.part == "decoder" else 0)


def test_a_refused_engine_is_shown_as_such_and_one_that_was_not_tried_too() -> None:
    built = EngineCase("m", "fp16", "decoder", "86", "", 1 << 20, 2 << 20, 1.25, 3 << 20, 2)
    refused = EngineCase("m", "fp16", "vision", "89", "why", 1 << 20)
    assert list(table([built, refused])) == [
        "| model | variant | engine | profiles | weights | SM86 | SM89 |",
        "|---|---|---|---|---|---|---|",
        "| m | fp16 | decoder | 2 | 1 MiB | 2 MiB, 1.2 s, 3 MiB | not tried |",
        "| m | fp16 | vision | 0 | 1 MiB | not tried | **refused** |",
    ]
