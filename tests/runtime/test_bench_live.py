"""`bench --live` counts right, on a clock that moves by one second whenever it is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy_backend import NumpyBackend
from tiny_golden import TOKENS

from neo_edge.cli import main
from neo_edge.errors import InputError, TokenizerError
from neo_edge.protocols import get_protocol
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Model
from neo_edge_runtime.bench.line_plot import Line, Panel, line_plot
from neo_edge_runtime.bench.live_report import LiveReport
from neo_edge_runtime.bench.live_speed import STAGES, LiveFigures, LivePlan, measure_live

SMALL = replace(get_protocol("edge"), min_pixels=32 * 32)
PLAN = LivePlan(frames=(1, 3, 11), question_frames=4, max_frames=8, repetitions=2, image_size=(64, 32))
SVG = "{http://www.w3.org/2000/svg}"


class TickingClock:
    """One second later each time."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        self.time_s += 1.0
        return self.time_s

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing sleeps here, but {seconds} s were asked for")


@pytest.fixture
def model(backend: NumpyBackend, tokenizer: Tokenizer) -> Iterator[Model]:
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer, protocol=SMALL) as model:
        yield model


@pytest.fixture
def figures(model: Model) -> LiveFigures:
    return measure_live(model, PLAN, clock=TickingClock())


def figures_of(policy: str, frames: tuple[int, ...], sessions: int = 1) -> LiveFigures:
    """Frame n takes n seconds in each stage; a hundred more in the second session."""
    plan = LivePlan(frames=frames, policy=policy, repetitions=sessions)  # type: ignore[arg-type]
    each = np.arange(1.0, max(frames) + 1) + 100 * np.arange(sessions)[:, None]
    resident = tuple(range(1, max(frames) + 1))
    return LiveFigures(
        plan, 4, dict.fromkeys(STAGES, each), np.ones(sessions), np.full(sessions, 30.0), resident
    )


def test_every_frame_is_timed_by_stage_in_every_session(figures: LiveFigures, backend: NumpyBackend) -> None:
    assert list(figures.seconds) == list(STAGES)
    assert {values.shape for values in figures.seconds.values()} == {(2, 11)}
    assert (figures.seconds["decode"] == 1).all()
    for stage in ("preprocess", "vision", "prefill"):
        assert (figures.seconds[stage] > 0).all()
    assert (figures.seconds["window"] >= 0).all()
    assert figures.visual_tokens == 2
    assert len(figures.resident_bytes) == 11
    assert all(state.closed for state in backend.states)


def test_a_question_is_asked_behind_its_frames_and_of_a_request_that_brings_them(
    figures: LiveFigures, backend: NumpyBackend
) -> None:
    assert figures.watched.tolist() == [1.0, 1.0]
    assert figures.cold.tolist() == [1.0, 1.0]
    assert len(backend.states) == 1 + 2 * 2  # one session to warm up, then a watched and a cold one, twice


@pytest.mark.parametrize(("policy", "span"), [("drop", 8), ("recompute", 32)])
def test_a_frames_cost_is_a_mean_from_one_cut_of_the_window_to_the_next(policy: str, span: int) -> None:
    found = figures_of(policy, (1, 5, 64), sessions=2)
    assert found.plan.span == span
    assert found.at(1, "prefill").tolist() == [1, 101]
    assert found.at(5).tolist() == [5 * 3, 5 * 103]  # the mean of 1 to 5, in each of five stages
    assert found.at(64, "vision").tolist() == [64 - (span - 1) / 2, 164 - (span - 1) / 2]


def test_the_report_has_a_row_for_each_place_and_the_shares_of_the_stages() -> None:
    report = LiveReport(
        "a/b.bundle", "fp32", "onnxruntime", ["a device"], "2026-01-01", figures_of("drop", (10, 64))
    )
    lines = list(report.lines())
    assert lines[0] == "a device"
    assert lines[1].startswith(
        "b.bundle, fp32, onnxruntime, 2026-01-01: watching a camera of 640x480, 4 visual tokens"
    )
    (ten,) = (line for line in lines if line.startswith("| frame 10 "))
    assert [cell.strip() for cell in ten.split("|")[2:-1]] == ["32500.00 ± 0.00", *["20.0"] * 5]
    (ratio,) = (line for line in lines if line.startswith("| cold / watched"))
    assert "30.0 ± 0.0" in ratio


def test_json_has_every_frame_and_every_repetition() -> None:
    report = LiveReport(
        "b", "fp32", "onnxruntime", [], "2026-01-01", figures_of("drop", (10, 64), sessions=2)
    )
    found = json.loads(json.dumps(report.to_json()))
    assert [row["frame"] for row in found["frames"]] == [10, 64]
    assert found["frames"][0]["stages"]["decode"]["all"] == [6.5, 106.5]
    assert found["first_token"]["cold"]["all"] == [30, 30]
    assert found["frame_seconds"][:2] == [5 * 51, 5 * 52]  # the median of both sessions
    assert found["resident_bytes"] == list(range(1, 65))


def test_the_drawing_has_a_point_a_frame_and_marks_where_costs_are_told() -> None:
    report = LiveReport("a<b", "fp32", "onnxruntime", [], "2026-01-01", figures_of("drop", (10, 64)))
    drawing = ElementTree.fromstring(report.plot())
    lines = drawing.findall(f".//{SVG}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [64, 64, 64]
    assert len(drawing.findall(f".//{SVG}circle")) == 2
    words = ["".join(text.itertext()) for text in drawing.iter(f"{SVG}text")]
    assert {"32500.00 ms", "302500.00 ms", "ms a frame", "MiB resident", "frames watched"} <= set(words)
    assert any(word.startswith("a<b, fp32") for word in words)


def test_without_memory_figures_there_is_one_panel() -> None:
    found = replace(figures_of("drop", (4,)), resident_bytes=(1, None, 3, 4))
    drawing = LiveReport("b", "fp32", "onnxruntime", [], "2026-01-01", found).plot()
    assert "MiB resident" not in drawing
    assert len(ElementTree.fromstring(drawing).findall(f".//{SVG}polyline")) == 2


@pytest.mark.parametrize("values", [(5.0,), (0.0, 0.0), (1.0, 2.0, 1000.0), tuple(range(1, 500))])
def test_lines_stay_within_their_panel(values: tuple[float, ...]) -> None:
    drawing = ElementTree.fromstring(
        line_plot("a title", "frames", [Panel("ms", (Line("x", values),), {1: "here"})])
    )
    width, height = (float(number) for number in (drawing.get("viewBox") or "").split()[2:])
    line = drawing.find(f".//{SVG}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
    assert len(points) == len(values)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert all(before[0] < after[0] for before, after in pairwise(points))


@pytest.mark.parametrize(
    "wrong",
    [{"frames": ()}, {"frames": (0,)}, {"question_frames": 0}, {"repetitions": 0}, {"image_size": (0, 8)}],
)
def test_impossible_plans_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="1 or above"):
        LivePlan(**wrong)  # type: ignore[arg-type]


def test_a_model_without_a_tokenizer_cannot_watch(backend: NumpyBackend) -> None:
    with (
        Model(backend, tokens=TOKENS, protocol=SMALL) as model,
        pytest.raises(TokenizerError, match="no tokenizer"),
    ):
        measure_live(model, PLAN)


SHORT = ["--live", "--threads", "1", "--repetitions", "1", "--image-size", "64x32", "--max-pixels", "2048"]


def test_the_command_prints_a_table_and_draws(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.svg"
    assert main(["bench", str(tiny_bundle), *SHORT, "--frames", "2,5", "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "2 visual tokens a frame, a window of 64, drop" in printed
    for row in ("frame 2", "frame 5", "watched", "cold"):
        assert f"| {row} " in printed
    assert ElementTree.parse(plot).getroot().tag == f"{SVG}svg"


def test_the_command_prints_json(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), *SHORT, "--frames", "3", "--policy", "recompute", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["averaged_frames"], found["variant"]) == ("recompute", 32, "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "3"], "--frames is for watching: give --live, too"),
        (["--max-pixels", "3"], "--max-pixels is for watching"),
        (["--live", "--vs", "torch", "--checkpoint", "x"], "--live and --vs do not go together"),
        (["--live", "--plot", "not-there/plot.svg"], "not-there is no folder"),
        (["--live", "--repetitions", "0"], "1 or above; found 0"),
        (["--live", "--variant", "int3"], "no variant 'int3'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["bench", str(tiny_bundle), *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
