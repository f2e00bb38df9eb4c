"""Written graphs, run in ONNX Runtime, against what upstream's code computed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from ort_driver import OrtDriver

from neo_edge.bundle import Bundle
from neo_edge.patch_grid import PatchGrid, pack_order, packed_patch_xy

VARIANTS = {"fp32": 1e-4, "fp32-portable": 1e-4, "fp16": 0.03, "fp16-portable": 0.03}
"""The project's tolerances; the largest golden logit is about 6."""

Golden = dict[str, np.ndarray]


@dataclass
class Graphs:
    """A variant, its tolerance, and the golden prompt in the graphs' own inputs."""

    driver: OrtDriver
    atol: float
    golden: Golden
    embeds: npt.NDArray[np.generic]  # [S, hidden]
    visible_length: npt.NDArray[np.int64]  # [S]

    def prefill(self, start: int, stop: int) -> None:
        """Feeds a piece of the prompt and checks the logits of all its rows."""
        logits = self.driver.step(
            self.embeds[None, start:stop],
            self.golden["indexes"][None, :, start:stop],
            self.visible_length[None, start:stop],
            [start],
        )
        self.check(logits[0], self.golden["prefill_logits"][start:stop])

    def decode(self) -> None:
        """Feeds the golden tokens one by one and checks the logits of each."""
        length = len(self.embeds)
        for step, token in enumerate(self.golden["decode_tokens"][:-1]):
            logits = self.driver.step(
                self.driver.embedding[None, None, token],
                self.golden["decode_indexes"][step][None, :, None],
                np.array([[length + step + 1]]),
                [length + step],
            )
            self.check(logits[0, 0], self.golden["decode_logits"][step + 1])

    def check(self, found: np.ndarray, expected: np.ndarray) -> None:
        np.testing.assert_allclose(found.astype(np.float32), expected, atol=self.atol, rtol=0)


def vision_tokens(driver: OrtDriver, golden: Golden) -> npt.NDArray[np.generic]:
    grids = [PatchGrid(int(rows), int(cols)) for rows, cols in golden["grid_hw"]]
    starts = np.cumsum([0, *(grid.patches for grid in grids)])
    order = np.concatenate([start + pack_order(grid) for start, grid in zip(starts, grids, strict=False)])
    return driver.vision(golden["pixel_values"][order], packed_patch_xy(grids))


def open_driver(bundle: Bundle, name: str, **sizes: int) -> OrtDriver:
    folder = bundle.path(bundle.variant(name).decoder).parent
    return OrtDriver(folder, bundle.manifest.model, bundle.variant(name).ops, **sizes)


def embed(driver: OrtDriver, golden: Golden, context_id: int) -> npt.NDArray[np.generic]:
    embeds = driver.embedding[golden["input_ids"]]
    if len(golden["grid_hw"]):
        embeds[golden["input_ids"] == context_id] = vision_tokens(driver, golden)
    return embeds


def visible_lengths(golden: Golden) -> npt.NDArray[np.int64]:
    """The end of what each row of the golden mask allows."""
    allow = golden["allow"]
    return allow.shape[1] - np.argmax(allow[:, ::-1], axis=1)


@pytest.fixture(params=VARIANTS)
def graphs(request: pytest.FixtureRequest, tiny_bundle: Bundle, golden_case: Golden) -> Graphs:
    driver = open_driver(tiny_bundle, request.param)
    context_id = tiny_bundle.manifest.model.img_context_token_id
    assert context_id is not None
    embeds = embed(driver, golden_case, context_id)
    return Graphs(driver, VARIANTS[request.param], golden_case, embeds, visible_lengths(golden_case))


def legal_ends(golden: Golden) -> list[int]:
    """Lengths at which no image is cut: where the next token has another t."""
    t = golden["indexes"][0]
    return [length for length in range(1, len(t)) if t[length] != t[length - 1]]


def test_visual_tokens_equal_upstream(graphs: Graphs) -> None:
    if not len(graphs.golden["grid_hw"]):
        assert not len(graphs.golden["vit_embeds"])
        return
    graphs.check(vision_tokens(graphs.driver, graphs.golden), graphs.golden["vit_embeds"])


def test_a_whole_prefill_and_decoding_equal_upstream(graphs: Graphs) -> None:
    graphs.prefill(0, len(graphs.embeds))
    graphs.decode()


def test_a_prefill_cut_at_every_legal_place_equals_upstream(graphs: Graphs) -> None:
    ends = [0, *legal_ends(graphs.golden), len(graphs.embeds)]
    for start, stop in itertools.pairwise(ends):
        graphs.prefill(start, stop)
    graphs.decode()


def test_rewinding_and_going_on_equals_upstream(graphs: Graphs) -> None:
    graphs.prefill(0, len(graphs.embeds))
    graphs.decode()
    middle = legal_ends(graphs.golden)[len(legal_ends(graphs.golden)) // 2]
    graphs.prefill(middle, len(graphs.embeds))
    graphs.decode()


def test_padding_behind_a_prefill_changes_nothing(graphs: Graphs) -> None:
    length, padding = len(graphs.embeds), 3
    tail = np.full((padding, graphs.embeds.shape[1]), 7, graphs.embeds.dtype)
    logits = graphs.driver.step(
        np.concatenate([graphs.embeds, tail])[None],
        np.pad(graphs.golden["indexes"], ((0, 0), (0, padding)))[None],
        np.pad(graphs.visible_length, (0, padding), constant_values=1)[None],
        [0],
        np.arange(length)[None],
    )
    graphs.check(logits[0], graphs.golden["prefill_logits"])
    graphs.decode()


def test_only_the_rows_that_are_asked_for_get_logits(graphs: Graphs) -> None:
    rows = np.array([[len(graphs.embeds) - 1, 0]])
    logits = graphs.driver.step(
        graphs.embeds[None], graphs.golden["indexes"][None], graphs.visible_length[None], [0], rows
    )
    graphs.check(logits[0], graphs.golden["prefill_logits"][rows[0]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_three_lengths_equals_each_alone(
    tiny_bundle: Bundle, golden_tiny: Path, variant: str
) -> None:
    goldens = [dict(np.load(golden_tiny / f"{case}.npz")) for case in ("text", "multi_image", "video")]
    driver = open_driver(tiny_bundle, variant, batch=3)
    context_id = tiny_bundle.manifest.model.img_context_token_id
    assert context_id is not None
    lengths = [len(golden["input_ids"]) for golden in goldens]
    longest = max(lengths)
    embeds = np.zeros((3, longest, driver.embedding.shape[1]), driver.dtype)
    positions = np.zeros((3, 3, longest), np.int32)
    visible = np.ones((3, longest), np.int32)
    for row, (golden, length) in enumerate(zip(goldens, lengths, strict=True)):
        embeds[row, :length] = embed(driver, golden, context_id)
        positions[row, :, :length] = golden["indexes"]
        visible[row, :length] = visible_lengths(golden)
    logits = driver.step(embeds, positions, visible, [0, 0, 0])
    for row, (golden, length) in enumerate(zip(goldens, lengths, strict=True)):
        expected = golden["prefill_logits"]
        np.testing.assert_allclose(logits[row, :length], expected, atol=VARIANTS[variant], rtol=0)
    for step in range(4):
        tokens = [golden["decode_tokens"][step] for golden in goldens]
        ends = [length + step for length in lengths]
        logits = driver.step(
            driver.embedding[tokens][:, None],
            np.stack([golden["decode_indexes"][step] for golden in goldens])[:, :, None],
            np.array(ends)[:, None] + 1,
            ends,
        )
        expected = np.stack([golden["decode_logits"][step + 1] for golden in goldens])
        np.testing.assert_allclose(logits[:, 0], expected, atol=VARIANTS[variant], rtol=0)


def test_float16_holds_when_every_operator_rounds(tiny_bundle: Bundle, golden_case: Golden) -> None:
    """ONNX Runtime computes float16 wider on CPUs; ONNX's own evaluator rounds after each operator, as a GPU may."""
    driver = open_driver(tiny_bundle, "fp16-portable")
    feeds = {
        "inputs_embeds": golden_case["inputs_embeds"][None].astype(np.float16),
        "position_ids": golden_case["indexes"][None].astype(np.int32),
        "visible_length": visible_lengths(golden_case)[None].astype(np.int32),
        "write_index": np.zeros(1, np.int32),
        "logits_index": np.arange(len(golden_case["input_ids"]), dtype=np.int32)[None],
        **driver.caches,
    }
    model = onnx.load(tiny_bundle.path("fp16-portable/decoder.onnx"))
    (logits,) = ReferenceEvaluator(model).run(["logits"], feeds)
    expected = golden_case["prefill_logits"]
    np.testing.assert_allclose(logits[0], expected, atol=VARIANTS["fp16-portable"], rtol=0)
