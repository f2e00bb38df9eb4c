"""The bench counts right: a backend and readers that take known times on a clock that only they move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy_backend import NumpyBackend, NumpyState
from tiny_golden import GOLDEN

from neo_edge.errors import ContextOverflowError, InputError
from neo_edge.patch_grid import PatchGrid
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.bench.device import device_lines
from neo_edge_runtime.bench.image_stages import QUESTION_TOKENS, STAGES, random_jpeg
from neo_edge_runtime.bench.measuring import BenchPlan, Figures, measure
from neo_edge_runtime.bench.prompts import image_prompt, text_prompt
from neo_edge_runtime.bench.read_bandwidth import ReadBuffer, buffer_bytes
from neo_edge_runtime.bench.report import BenchReport
from neo_edge_runtime.bench.timing import Contender, interleave, mean_and_deviation, spread
from neo_edge_runtime.image_input import load_image

RUN_S, TOKEN_S, PATCH_S = (
    1e-3,
    1e-4,
    1e-5,
)  # a decoder run, each of its tokens, each patch of the vision graph
READ_BYTES_S = {"slow": 5e8, "fast": 1e9}
PLAN = BenchPlan(prompt_tokens=(8, 20), new_tokens=4, depths=(0, 16), repetitions=3, image_size=(96, 64))


class FakeClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.time_s, self.slept_s = 0.0, 0.0

    def now(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def work(self, seconds: float) -> None:
        self.time_s += seconds


class TimedBackend(NumpyBackend):
    """The numpy model, whose calls take known times."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(GOLDEN)
        self.clock = clock

    def encode_patches(self, patches: np.ndarray, patch_xy: np.ndarray) -> np.ndarray:
        self.clock.work(PATCH_S * len(patches))
        return super().encode_patches(patches, patch_xy)

    def new_state(self, *, batch: int, capacity: int) -> NumpyState:
        state = super().new_state(batch=batch, capacity=capacity)
        run = state.run

        def timed(inputs: DecoderInputs) -> np.ndarray:
            self.clock.work(RUN_S + TOKEN_S * inputs.inputs_embeds.shape[1])
            return run(inputs)

        state.run = timed  # type: ignore[method-assign]
        return state


class FakeBuffer(ReadBuffer):
    """Two readers of known speed over a few bytes."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(1, 4096)
        self.clock = clock

    @property
    def readers(self) -> dict[str, object]:  # type: ignore[override]
        return {
            name: lambda rate=rate: self.clock.work(self.size_bytes / rate)
            for name, rate in READ_BYTES_S.items()
        }


class FakeRival:
    """Takes three times as long a token as we do, and notes what it was asked for."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asked: list[tuple[int, int]] = []

    def contenders(self, tokens: int, past: int) -> Mapping[str, Contender]:
        self.asked.append((tokens, past))
        return {"rival": Contender(lambda: self.clock.work(3 * (RUN_S + TOKEN_S * tokens)))}


def run_bench(
    clock: FakeClock, *, takes_images: bool = True, plan: BenchPlan = PLAN, rival: FakeRival | None = None
) -> Figures:
    backend = TimedBackend(clock)
    found = measure(
        backend,
        resolve_special_tokens(None, backend.config),
        plan,
        weight_bytes=1_000_000,
        takes_images=takes_images,
        threads=1,
        rival=None if rival is None else lambda: rival,
        buffer=lambda: FakeBuffer(clock),
        clock=clock,
    )
    assert all(state.closed for state in backend.states)
    return found


@pytest.fixture(scope="module")
def found() -> Figures:
    """One run with a rival, for all tests that only look at it."""
    clock = FakeClock()
    rival = FakeRival(clock)
    figures = run_bench(clock, rival=rival)
    assert rival.asked == [(8, 0), (20, 0), (1, 3), (8, 16), (20, 16), (1, 18)]
    return figures


def test_prefill_and_decoding_take_what_the_backend_takes(found: Figures) -> None:
    assert [row.test.name for row in found.rows] == [
        "pp8",
        "pp20",
        "tg4",
        "pp8 @ d16",
        "pp20 @ d16",
        "tg4 @ d16",
    ]
    for row in found.rows:
        runs, tokens = (4, 4) if row.test.kind == "tg" else (1, row.test.tokens)
        assert row.seconds == pytest.approx([runs * RUN_S + tokens * TOKEN_S] * 3)


def test_the_share_of_the_bandwidth_is_held_to_the_fastest_reader(found: Figures) -> None:
    assert list(found.bandwidth) == ["fast", "slow"]
    assert found.bandwidth["slow"] == pytest.approx([READ_BYTES_S["slow"]] * 3)
    decoder = NumpyBackend(GOLDEN).config.decoder
    per_token = 4 * decoder.num_layers * decoder.num_kv_heads * 3 * decoder.head_dim
    for row, visible in ((found.rows[2], 1 + 2), (found.rows[5], 16 + 2)):
        read = 1_000_000 + visible * per_token
        assert row.share == pytest.approx([read / (RUN_S + TOKEN_S) / 1e9] * 3)
    assert [row.share is None for row in found.rows] == [True, True, False] * 2


def test_an_image_is_timed_by_stage_and_the_first_token_is_their_sum(found: Figures) -> None:
    assert found.image_prompt_tokens == found.visual_tokens + QUESTION_TOKENS
    assert list(found.image) == [*STAGES, "first token"]
    expected = {
        "vision": PATCH_S * 4 * found.visual_tokens,
        "prefill": RUN_S + TOKEN_S * found.image_prompt_tokens,
    }
    for stage in STAGES:
        assert found.image[stage] == pytest.approx([expected.get(stage, 0.0)] * 3)
    assert found.image["first token"] == pytest.approx([sum(expected.values())] * 3)


def test_a_rival_does_the_same_work_in_the_same_rounds(found: Figures) -> None:
    for row in found.rows:
        assert row.others["rival"] == pytest.approx([3.0] * 3)


def test_a_model_without_images_is_measured_with_text_alone() -> None:
    found = run_bench(FakeClock(), takes_images=False)
    assert (found.image, found.visual_tokens) == ({}, 0)
    assert len(found.rows) == 6
    assert "no image: this bundle knows no image tokens" in "\n".join(report(found).lines())


def test_a_test_that_is_too_long_is_refused_before_anything_is_timed() -> None:
    positions = NumpyBackend(GOLDEN).config.decoder.max_positions
    clock = FakeClock()
    with pytest.raises(ContextOverflowError, match=f"the model was made for {positions}"):
        run_bench(clock, plan=BenchPlan(prompt_tokens=(positions + 1,), depths=(0,)))
    assert clock.slept_s == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt_tokens": (5, 0)}, "^prompt tokens: 0 was given; it must be 1 or above$"),
        ({"new_tokens": 0}, "^new tokens: 0 was given; it must be 1 or above$"),
        ({"depths": (0, -1)}, "^depths: -1 was given; it must be 0 or above$"),
        ({"depths": ()}, "^depths is empty; give one or more, 0 for an empty cache$"),
        ({"repetitions": 0}, "^repetitions: 0 was given; it must be 1 or above$"),
        ({"image_size": (640, 0)}, "^the picture's width and height: 0 was given; it must be 1 or above$"),
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchPlan(**wrong)  # type: ignore[arg-type]


def report(found: Figures) -> BenchReport:
    return BenchReport("x.bundle", "fp32", 1, ["a device"], "2026-01-02", 0.25, False, found)


def test_the_table_has_means_deviations_and_ratios(found: Figures) -> None:
    lines = list(report(found).lines())
    assert lines[0] == "a device"
    assert "x.bundle, fp32, onnxruntime, 1 threads, 2026-01-02: loaded in 0.25 s, peak memory" in lines[1]
    assert lines[2] == "read: fast: 1.0 ± 0.0 GB/s"
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    cells = [cell.strip() for cell in rows["pp8 @ d16"].split("|")[2:-1]]
    assert cells == [f"{8 / 1.8e-3:.1f} ± 0.0", "0.23 ± 0.00", "", "3.00 ± 0.00 x"]
    assert "0.9" in rows["tg4"].split("|")[4]
    assert rows["first token"].split("|")[2].strip().endswith("± 0.00")
    assert len({len(line) for line in lines if line.startswith("|") and "pp" in line}) == 1


def test_what_computes_the_decoder_is_named(found: Figures) -> None:
    on_gpu, plain, ours = (replace(report(found), kernels=name) for name in ("", "ONNX Runtime", "AMX"))
    assert "computed by" not in list(on_gpu.lines())[1]
    assert list(plain.lines())[1].endswith(", decoder computed by ONNX Runtime")
    assert list(ours.lines())[1].endswith(", decoder computed by neo_edge's own kernels (AMX)")
    assert [one.to_json()["decoder_kernels"] for one in (on_gpu, plain, ours)] == [
        None,
        "ONNX Runtime",
        "AMX",
    ]


def test_json_has_every_repetition(found: Figures) -> None:
    parsed = json.loads(json.dumps(report(found).to_json()))
    row = parsed["text"][2]
    assert (row["test"], row["kind"], row["tokens"], row["depth"]) == ("tg4", "tg", 4, 0)
    assert row["seconds"]["all"] == pytest.approx([4 * (RUN_S + TOKEN_S)] * 3)
    assert row["tokens_per_second"]["mean"] == pytest.approx(1 / (RUN_S + TOKEN_S))
    assert row["times_ours"]["rival"]["median"] == pytest.approx(3.0)
    assert parsed["text"][0]["share_of_read_bandwidth"] is None
    assert set(parsed["image"]["seconds"]) == {*STAGES, "first token"}
    assert parsed["read_bytes_per_second"]["fast"]["mean"] == pytest.approx(1e9)


def test_contenders_take_turns_after_a_round_that_does_not_count() -> None:
    clock, order = FakeClock(), []

    def contender(name: str, first: float, later: float) -> Contender:
        def run() -> None:
            order.append(name)
            clock.work(first if order.count(name) <= 2 else later)

        return Contender(run, prepare=lambda: clock.work(100))

    rounds = []
    found = interleave(
        {"a": contender("a", 9, 1), "b": contender("b", 9, 2)},
        rounds=2,
        clock=clock,
        on_round=lambda: rounds.append(len(order)),
    )
    assert order == ["a", "a", "b", "b"] * 3
    assert rounds == [8, 12]
    assert {name: times.tolist() for name, times in found.items()} == {"a": [1, 1], "b": [2, 2]}
    assert clock.slept_s == pytest.approx(6 * 0.3)


def test_repeats_within_a_round_give_their_median() -> None:
    clock, costs = FakeClock(), iter([50, 1, 2, 9, 50, 3, 1, 5])
    found = interleave({"a": Contender(lambda: clock.work(next(costs)), 3)}, rounds=1, clock=clock)
    assert found["a"].tolist() == [3]


def test_spreads_are_written_short() -> None:
    assert spread(np.array([1.0, 3.0, 2.0]), 1) == "2.0 (1.0 to 3.0)"
    assert mean_and_deviation(np.array([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation(np.array([1.5])) == (1.5, 0.0)


def test_random_prompts_hold_no_special_token_by_chance() -> None:
    config = NumpyBackend(GOLDEN).config
    tokens = resolve_special_tokens(None, config)
    special = {tokens.img_context, tokens.img_start, tokens.img_end, *tokens.eos}
    text = text_prompt(config, tokens, 500)
    assert not special & set(text.input_ids.tolist())
    assert (text.input_ids == text_prompt(config, tokens, 500).input_ids).all()
    image = image_prompt(config, tokens, PatchGrid(4, 6), 20)
    assert (image.input_ids == tokens.img_context).sum() == 6
    assert image.visual_tokens is not None
    assert image.visual_tokens.shape == (6, config.decoder.hidden_size)
    with pytest.raises(InputError, match="6 tokens does not fit a prompt of 11"):
        image_prompt(config, tokens, PatchGrid(4, 6), 11)


def test_the_picture_is_a_jpeg_of_the_size_asked_for() -> None:
    assert load_image(random_jpeg(100, 60)).size == (100, 60)


def test_the_buffer_is_no_page_of_zeros_and_read_by_every_reader() -> None:
    buffer = ReadBuffer(2, 1 << 20)
    assert (np.abs(buffer.values.reshape(-1, 1024)).max(axis=1) > 0.5).all()
    assert -1 <= buffer.values.min() < -0.9
    for read in buffer.readers.values():
        read()
    assert buffer_bytes() >= 256 << 20


def test_the_device_is_named_with_its_versions_and_threads() -> None:
    lines = device_lines(3)
    assert "cores" in lines[0]
    assert f"numpy {np.__version__}" in lines[1]
    assert lines[1].endswith("; 3 threads")
