"""`neo-edge run` and `neo-edge parity` on a real bundle of the tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_golden import CASES, GOLDEN

from neo_edge.cli import main

GOLDEN_FILES = [str(GOLDEN / f"{case}.npz") for case in CASES]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)).save(path)
    return str(path)


def run(bundle: Path, *arguments: str) -> int:
    return main(["run", str(bundle), *arguments, "--threads", "1"])


def test_run_streams_the_answer_and_prints_the_cost_beside_it(
    tiny_bundle: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["where?", "--image", picture, "--max-pixels", "6144", "--max-new-tokens", "5"]
    assert run(tiny_bundle, *options) == 0
    plain = capsys.readouterr()
    assert "prompt tokens (6 visual)" in plain.err
    assert "peak memory" in plain.err
    assert run(tiny_bundle, *options, "--json") == 0
    in_json = json.loads(capsys.readouterr().out)
    assert plain.out == in_json["text"] + "\n"
    assert in_json["usage"]["visual_tokens"] == 6
    assert in_json["stop_reason"] in ("max_tokens", "eos")


def test_run_takes_frames_with_times_and_sampling_options(
    tiny_bundle: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["when?", "--frame", "0.0", picture, "--frame", "1.5", picture, "--video-duration", "2"]
    arguments += [
        "--fps",
        "1",
        "--max-pixels",
        "6144",
        "--variant",
        "fp16-portable",
        "--protocol",
        "neo-ov-video",
    ]
    sampling = ["--max-new-tokens", "6", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.9"]
    sampling += ["--min-p", "0.01", "--repetition-penalty", "1.1", "--seed", "3", "--stop", "zz", "--json"]
    answers = []
    for _ in range(2):
        assert run(tiny_bundle, *arguments, *sampling) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[0]["usage"]["visual_tokens"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--image", "none.png"], "none.png cannot be read"),
        (["a", "--frame", "soon", "a.png"], "'soon' is not a number"),
        (["a", "--protocol", "no"], "no protocol 'no'"),
        (["a", "--variant", "int3"], "no variant 'int3'"),
        (["a", "--temperature", "-1"], "temperature is -1.0"),
        (["a", "--max-pixels", "0"], "pixel limits"),
    ],
)
def test_run_says_what_is_wrong_and_exits_1(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tiny_bundle, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err


def test_parity_prints_the_worst_figures_of_all_variants(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for chunked in ([], ["--chunked"]):
        assert main(["parity", str(tiny_bundle), *GOLDEN_FILES, "--threads", "1", *chunked]) == 0
        printed = capsys.readouterr().out
        for variant, allowed in (("fp32", "1.00e-04"), ("fp16-portable", "3.00e-02")):
            assert f"{variant}, {'chunked' if chunked else 'whole'} prefill, allowed {allowed}" in printed
        for column in (
            "visual tokens",
            "prefill logits",
            "decode logits",
            "positions",
            "after rewind",
            "after fork",
        ):
            assert column in printed
        assert printed.count("within the tolerance") == 4


def test_parity_exits_1_above_the_tolerance(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["parity", str(tiny_bundle), *GOLDEN_FILES, "--threads", "1", "--variant", "fp16"]
    assert main([*arguments, "--atol", "1e-4"]) == 1
    assert "ABOVE the tolerance" in capsys.readouterr().out
    assert main([*arguments, "--atol", "1e-4", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["variants"]["fp16"]
    assert found["passed"] is False
    assert found["allowed"] == 1e-4
    cases = found["cases"]
    assert set(cases) == set(GOLDEN_FILES)
    assert all(1e-4 < case["worst"] < 0.03 and case["positions"] == 0 for case in cases.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.npz"], "no.npz cannot be read"),
        ([GOLDEN_FILES[0], "--atol", "-1"], "--atol is -1.0"),
        ([GOLDEN_FILES[0], "--atol", "nan"], "--atol is nan"),
        ([GOLDEN_FILES[0], "--variant", "int3"], "no variant 'int3'"),
    ],
)
def test_parity_says_what_is_wrong_and_exits_1(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["parity", str(tiny_bundle), *arguments]) == 1
    assert message in capsys.readouterr().err
