"""The GPU check where there is no GPU: each reason to skip, and its parts' own work on the CPU."""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from check_bundles import find_bundle, write_bundle
from check_facts import MODULES, Facts, this_machine, why_not
from check_kernels import kernel_rows, steps_row
from check_parts import (
    PARTS,
    _parity,
    _same_answer,
    _scenes,
    bench_rows,
    buffer_rows,
    frame_row,
    graph_rows,
    run_part,
)
from check_runner import SkipError
from gpu_check import main
from host_device import HostDevice, HostKernels
from tensorrt_bundle import Fakes, add_engines, engine_key

from neo_edge.bundle import open_bundle
from neo_edge_runtime.device_frame import device_frame
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver
from neo_edge_runtime.tensorrt.device import Tensor

H100 = NvidiaDriver("580.10", "13.0", (NvidiaDevice("H100", 80 << 30, "9.0"),))
ALL = frozenset(MODULES)
WITHOUT_GPU = pytest.mark.skipif(not isinstance(this_machine().driver, str), reason="there is a GPU")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-check")
    assert write_bundle(folder, "tiny")
    assert not write_bundle(folder, "tiny"), "it is there already"
    return folder


@pytest.mark.parametrize(
    ("facts", "needs", "reason"),
    [
        (Facts("no NVIDIA driver (x is not there)", ALL, None), (), "no NVIDIA driver (x is not there)"),
        (Facts(NvidiaDriver("1", "13.0", ()), ALL, None), (), "the driver 1 shows no GPU"),
        (Facts(H100, ALL - {"cuda"}, None), ("cuda",), "not installed: cuda-bindings (docs/offline-gpu.md"),
        (Facts(H100, frozenset(), None), ("tensorrt", "onnx"), "not installed: tensorrt, onnx "),
        (Facts(H100, frozenset(), None), ("tensorrt_rtx",), "not installed: tensorrt-rtx-cu13 "),
        (Facts(H100, frozenset(), None), ("torch",), "not installed: torch "),
        (Facts(H100, frozenset(), None), ("onnxruntime",), "not installed: onnxruntime-gpu "),
        (Facts(H100, ALL, "onnxruntime"), ("onnxruntime",), "the onnxruntime here is the one for CPUs"),
        (Facts(H100, ALL, "onnxruntime-gpu"), tuple(MODULES), ""),
    ],
)
def test_each_reason_why_a_part_cannot_run_is_known_before_it_starts(
    facts: Facts, needs: tuple[str, ...], reason: str
) -> None:
    found = why_not(facts, needs)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_names_what_it_needs_and_ends_in_time(name: str) -> None:
    plan = PARTS[name]
    assert set(plan.needs) <= set(MODULES)
    assert 0 < plan.limit_s <= 480


@WITHOUT_GPU
def test_without_a_driver_the_whole_check_skips_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path / "new"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["machine"][0].startswith("no NVIDIA driver")
    assert [row["part"] for row in found["rows"]] == list(PARTS)
    assert {row["result"] for row in found["rows"]} == {"skipped"}


def test_a_check_without_time_skips_what_could_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Facts(H100, ALL, "onnxruntime-gpu")
    status = main(
        ["--folder", str(tmp_path), "--only", "onnxruntime-cuda", "--only", "shape", "--seconds", "0"],
        pretended,
    )
    printed = capsys.readouterr()
    assert status == 2
    assert "H100, compute capability 9.0, 80 GiB" in printed.out
    assert "the 0 s of the whole check are used up" in printed.out
    assert "shape: shape: skipped" in printed.err


def test_a_part_without_its_bundle_is_skipped_with_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(SkipError, match="tiny.bundle is not in .*the part `bundles` writes it"):
        find_bundle(tmp_path, "tiny")
    for name in ("bench-onnxruntime", "bench-tensorrt", "bench-torch"):
        (row,) = run_part(name, tmp_path)
        assert row.result == "skipped"
        assert row.detail.startswith(("2b.bundle is not in ", "neither tensorrt nor tensorrt-rtx-cu13"))
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_what_a_part_refuses_on_purpose_is_a_row(bundles: Path) -> None:
    rows = {row.what: row for row in run_part("onnxruntime-cuda", bundles)}
    assert (rows["fp32-portable"].result, rows["fp32"].result) == ("failed", "skipped")
    assert "has no CUDAExecutionProvider" in rows["fp32-portable"].detail
    assert (rows["nano"].result, rows["nano"].detail.split(" ")[0]) == ("skipped", "nano.bundle")


@WITHOUT_GPU
def test_a_part_that_cannot_open_the_device_says_its_error() -> None:
    (row,) = run_part("buffers", Path())
    assert row.result == "failed"
    assert row.detail.startswith(("MissingExtraError: ", "BackendError: "))


def test_buffers_and_graphs_are_right_on_a_device_that_is() -> None:
    rows = [*buffer_rows(HostDevice(memory_bytes=64 << 20)), *graph_rows(HostDevice(memory_bytes=64 << 20))]
    assert [result for _, result, _ in rows] == ["ok"] * 6
    assert rows[1][2] == "all bytes right"


def test_programs_that_choose_are_right_on_a_device_that_is() -> None:
    rows = list(kernel_rows(HostDevice(memory_bytes=64 << 20)))
    assert [result for _, result, _ in rows] == ["ok"] * 8
    assert rows[1][2].startswith("1023 tokens as numpy; the sum is off by ")
    (row,) = kernel_rows(HostDevice(memory_bytes=64 << 20, has_kernels=False))
    assert row == ("kernels of our own", "skipped", "NVRTC is not installed")


def test_programs_that_choose_wrongly_are_found_out() -> None:
    class OneOff(HostKernels):
        """Takes the row from its second logit on."""

        def likeliest(self, logits: Tensor, found: Tensor) -> None:
            super().likeliest(
                replace(logits, address=logits.address + 4, shape=(1, logits.shape[1] - 1)), found
            )

        def candidates(
            self, logits: Tensor, temperature: Tensor, tokens: Tensor, values: Tensor, summary: Tensor
        ) -> None:
            moved = replace(logits, address=logits.address + 4, shape=(logits.shape[0] - 1,))
            super().candidates(moved, temperature, tokens, values, summary)

    device = HostDevice(memory_bytes=64 << 20)
    device._kernels = OneOff(device)
    wrong = [(what, detail) for what, result, detail in kernel_rows(device) if result == "failed"]
    assert [what for what, _ in wrong] == [
        "arg-max, spread",
        "largest logits, spread",
        "arg-max, many equal",
        "largest logits, many equal",
    ]
    assert all("numpy" in detail or "sum is off" in detail for _, detail in wrong)


def test_largest_logits_of_steps_are_those_of_all(bundles: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundles / "tiny.bundle", tmp_path / "tiny.bundle"))
    add_engines(root, engine_key(open_bundle(root), "fp32-portable"))
    for has_kernels, expected in ((True, "those of all logits in 4 steps"), (False, "the device found none")):
        backend = Fakes(open_bundle(root), has_kernels=has_kernels).open("fp32-portable")
        assert steps_row(backend) == ("ok" if has_kernels else "failed", expected)
        backend.close()


def test_a_device_without_compiler_or_graphs_says_so() -> None:
    rows = list(buffer_rows(HostDevice(memory_bytes=64 << 20, has_kernels=False)))
    assert rows[-1] == ("kernels of our own", "skipped", "NVRTC is not installed")
    (row,) = graph_rows(HostDevice(memory_bytes=64 << 20, captures=False))
    assert row == ("capture", "failed", "the driver captured no graph of a copy")


def test_a_frame_on_the_device_is_the_one_on_the_host() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    device = HostDevice(memory_bytes=1 << 20)

    def look(picture: object) -> str:
        if isinstance(picture, np.ndarray):
            return str(picture.sum())
        frame = device_frame(picture)
        assert (frame.height, frame.width) == (4, 6)
        there = (ctypes.c_uint8 * image.nbytes).from_address(frame.address)
        return str(np.frombuffer(there, np.uint8).sum())

    assert frame_row(look, device, image) == ("ok", f"same answer as from the host: '{image.sum()}'")
    differs = iter(["a", "b"])
    assert frame_row(lambda _: next(differs), device, image)[0] == "failed"


@pytest.mark.parametrize("variant", ["fp32-portable", "fp16"])
def test_the_parity_that_gpus_are_held_to_passes_on_the_cpu(bundles: Path, variant: str) -> None:
    result, detail = _parity(open_bundle(bundles / "tiny.bundle"), "onnxruntime", variant)
    assert result == "ok"
    assert detail.startswith("goldens: worst ")


def test_the_answer_that_gpus_are_held_to_is_the_cpu_s_own(bundles: Path) -> None:
    bundle = open_bundle(bundles / "tiny.bundle")
    result, detail = _same_answer(bundle, "onnxruntime", "fp32", exact=True)
    assert (result, detail) == ("ok", "16 of 16 tokens are those of fp32 on the CPU")


def test_the_nano_answers_scenes(tmp_path: Path) -> None:
    write_bundle(tmp_path, "nano")
    result, detail = _scenes(tmp_path, "onnxruntime", "fp16-portable")
    assert result == "ok", detail


def test_figures_of_the_bench_become_rows() -> None:
    report = {
        "peak_device_memory_bytes": 3 << 30,
        "read_bytes_per_second": {"copies": {"mean": 2e12}},
        "text": [
            {
                "test": "tg128",
                "tokens_per_second": {"mean": 200.0},
                "share_of_read_bandwidth": {"mean": 0.7},
                "times_ours": {"torch eager": {"mean": 3.0}},
            },
            {
                "test": "pp512",
                "tokens_per_second": {"mean": 9e3},
                "share_of_read_bandwidth": None,
                "times_ours": {},
            },
        ],
        "image": {"seconds": {"first token": {"mean": 0.0125}}},
    }
    assert list(bench_rows(report)) == [
        ("memory", "ok", "3.00 GiB on the device"),
        ("bandwidth", "ok", "2000 GB/s: copies"),
        ("tg128", "ok", "200.0 tokens/s, 0.70 of the bandwidth, torch eager takes 3.00 x"),
        ("pp512", "ok", "9000.0 tokens/s"),
        ("one picture", "ok", "12.5 ms to the first token"),
    ]
