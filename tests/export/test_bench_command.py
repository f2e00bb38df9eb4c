"""`neo-edge bench` on a real bundle; how fast anything is is not looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from neo_edge.bundle import Bundle
from neo_edge.cli import main
from neo_edge_runtime.bench import read_bandwidth
from neo_edge_runtime.bench.measuring import decoder_weight_bytes
from neo_edge_runtime.bench.timing import SystemClock

SMALL = [
    "--threads",
    "1",
    "--prompt-tokens",
    "8",
    "--new-tokens",
    "3",
    "--depth",
    "0,5",
    "--repetitions",
    "2",
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small buffer to read, and no rests."""
    monkeypatch.setattr(read_bandwidth, "buffer_bytes", lambda: 1 << 20)
    monkeypatch.setattr(SystemClock, "sleep", lambda *_: None)


def bench(bundle: Bundle, *arguments: str) -> int:
    return main(["bench", str(bundle.root), *SMALL, *arguments])


def test_it_prints_two_tables_for_a_bundle_without_a_tokenizer(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not tiny_bundle.manifest.tokenizer
    assert bench(tiny_bundle, "--image-size", "96x64") == 0
    printed = capsys.readouterr().out
    for row in ("pp8", "tg3", "pp8 @ d5", "tg3 @ d5", "decode", "resize", "patches", "vision", "prefill"):
        assert f"| {row} " in printed
    assert "fp32, onnxruntime, 1 threads" in printed
    assert "peak memory" in printed


def test_json_has_the_reference_beside_ours(
    tiny_bundle: Bundle, golden_tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--variant", "fp16-portable", "--image-size", "64x64", "--vs", "torch", "--json"]
    assert bench(tiny_bundle, *options, "--checkpoint", str(golden_tiny)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variant"] == "fp16-portable"
    assert found["decoder_weight_bytes"] == decoder_weight_bytes(tiny_bundle, "fp16-portable")
    assert (
        found["decoder_weight_bytes"] == (tiny_bundle.root / "fp16-portable/decoder.onnx.data").stat().st_size
    )
    for row in found["text"]:
        assert set(row["times_ours"]) == {"torch eager", "torch sdpa"}
        assert all(len(ratio["all"]) == 2 for ratio in row["times_ours"].values())
    assert "torch sum" in found["read_bytes_per_second"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vs", "torch"], "--vs torch and --checkpoint DIR go together"),
        (["--checkpoint", "x"], "go together"),
        (["--vs", "torch", "--checkpoint", "neo-ov-nano"], "neo-ov-nano is another model"),
        (["--variant", "int3"], "no variant 'int3'"),
        (["--repetitions", "0"], "1 or above"),
        (["--prompt-tokens", "200000"], "shorten the prompt"),
        (["--prompt-tokens", "999999999999999"], "shorten the prompt"),  # more than fit in memory
    ],
)
def test_it_says_what_is_wrong_and_exits_1(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert bench(tiny_bundle, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--depth", "0,x"], "'0,x' is no list of whole numbers, such as 320,1024"),
        (["--image-size", "640"], "'640' is no size: write it like 640x480"),
        (["--vs", "onnx"], "invalid choice: 'onnx'"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_right(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench(tiny_bundle, *wrong)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_without_torch_the_comparison_exits_2_with_the_pip_line(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert bench(tiny_bundle, "--vs", "torch", "--checkpoint", "neo-ov-nano") == 2
    assert 'pip install "neo-edge[export]"' in capsys.readouterr().err
