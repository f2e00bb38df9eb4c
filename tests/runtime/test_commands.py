"""`neo-edge run` and `neo-edge parity` on a real bundle of the tiny checkpoint."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_golden import CASES, GOLDEN

from neo_edge.bundle import Bundle
from neo_edge.cli import main
from neo_edge_runtime import backend_choice
from neo_edge_runtime.backend_choice import OpenedBackend, open_backend

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


def test_parity_on_a_gpu_replays_the_variant_that_its_backend_takes(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str | None, str | None]] = []

    def on_host(
        bundle: Bundle, asked: str | None, *, variant: str | None, threads: int | None
    ) -> OpenedBackend:
        opened.append((asked, variant))
        return open_backend(bundle, None, variant="fp16", threads=threads)

    monkeypatch.setattr(backend_choice, "open_backend", on_host)
    arguments = ["parity", str(tiny_bundle), GOLDEN_FILES[0], "--threads", "1", "--backend", "tensorrt-rtx"]
    assert main(arguments) == 0
    assert opened == [("tensorrt-rtx", None)]
    assert capsys.readouterr().out.startswith("fp16, whole prefill, allowed 3.00e-02\n")


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


def test_run_takes_token_ids_and_reads_them_from_standard_input(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for question in ("5 6 7", "5, 6,7", "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("5 6\n7\n"))
        assert run(tiny_bundle, question, "--token-ids", "--max-new-tokens", "6", "--json") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [3, 3, 3]
    assert answers[0]["token_ids"] == answers[1]["token_ids"] == answers[2]["token_ids"]


def test_run_takes_pictures_with_token_ids(
    tiny_bundle: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["1 318 317 319 2", "--token-ids", "--image", picture, "--max-pixels", "6144", "--json"]
    assert run(tiny_bundle, *arguments, "--max-new-tokens", "2") == 0
    assert json.loads(capsys.readouterr().out)["usage"]["visual_tokens"] == 6


def test_run_prefills_in_chunks_as_it_does_whole(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for chunk_tokens in ("1024", "3"):
        assert (
            run(tiny_bundle, "where?", "--chunk-tokens", chunk_tokens, "--max-new-tokens", "5", "--json") == 0
        )
        answers.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1 two 3", "--token-ids"], "'1 two 3' holds something else"),
        (["", "--token-ids"], "not empty"),
        (["1 2", "--token-ids", "--system", "x"], "leave them out"),
        (["a", "--memory-limit", "1KiB"], "memory_limit_bytes allows"),
        (["a", "--max-context-tokens", "5"], "this session holds 5"),
        (["a", "--max-context-tokens", "0"], "max_context_tokens is 0"),
        (["a", "--chunk-tokens", "0"], "chunk_tokens is 0"),
    ],
)
def test_run_refuses_what_does_not_fit_before_anything_runs(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tiny_bundle, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


def test_a_memory_limit_that_is_no_amount_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["run", "x", "a", "--memory-limit", "lots"])
    assert raised.value.code == 2
    assert "'lots' is no amount of memory: write it like 512MiB" in capsys.readouterr().err


def test_ctrl_c_ends_an_answer_with_130_and_no_traceback(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "neo_edge.cli", "run", str(tiny_bundle), "hello there", "--threads", "1"]
    for _ in range(20):
        with subprocess.Popen(
            [*command, "--max-new-tokens", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.read(1)  # the answer has begun
            child.send_signal(signal.SIGINT)
            child.stdout.read()
            said = child.stderr.read().decode()
        if child.returncode not in (0, -signal.SIGINT):  # these: it had ended, or was ending, by itself
            break
    assert child.returncode == 130
    assert said == "interrupted\n"


def test_without_onnxruntime_there_is_the_pip_line_and_status_2(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for arguments in (
        ["run", str(tiny_bundle), "a"],
        ["chat", str(tiny_bundle)],
        ["parity", str(tiny_bundle), "x"],
    ):
        assert main(arguments) == 2
        assert 'pip install "neo-edge[cpu]"' in capsys.readouterr().err
