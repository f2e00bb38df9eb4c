"""The device over the CUDA driver: what it calls, in a fake driver, and what it says when a call fails."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_cuda import INTERFACE, CUresult, FakeCuda

from neo_edge.errors import BackendError, MemoryBudgetError, MissingExtraError
from neo_edge_runtime import tensorrt
from neo_edge_runtime.tensorrt.cuda_device import CudaDevice
from neo_edge_runtime.tensorrt.cuda_driver import CudaDriver
from neo_edge_runtime.tensorrt.cuda_kernels import compile_kernels
from neo_edge_runtime.tensorrt.device import Rows

FOLDER = Path(tensorrt.__file__).parent


def open_device(fake: FakeCuda, index: int = 0) -> CudaDevice:
    return CudaDevice(index, cuda=CudaDriver("tensorrt", lambda *_, **__: fake))  # type: ignore[arg-type]


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(fake: FakeCuda) -> CudaDevice:
    return open_device(fake)


def put(fake: FakeCuda, address: int, values: list[int]) -> None:
    fake.memory[address][: len(values)] = values


def test_a_device_says_what_it_is(device: CudaDevice) -> None:
    assert (device.name, device.compute_capability) == ("Orin, device 0", "87")
    assert device.stream == 4711
    assert device.free_bytes() == 3 << 20


def test_memory_is_copied_as_it_is_and_in_rows(fake: FakeCuda, device: CudaDevice) -> None:
    pinned, here, there = (
        device.allocate_pinned(8),
        device.allocate(8, "a test"),
        device.allocate(12, "a test"),
    )
    pinned.array[...] = range(8)
    device.copy(here, pinned.address, 8)
    device.zero(there, 12)
    device.copy_rows(Rows(there + 1, 6), Rows(here, 4), width_bytes=3, rows=2)
    device.synchronize()
    assert fake.memory[there].tolist() == [0, 0, 1, 2, 0, 0, 0, 4, 5, 6, 0, 0]
    device.free(here)
    device.free(there)
    device.free_pinned(pinned)
    assert fake.memory == {}


def test_a_captured_graph_does_its_work_when_it_is_launched(fake: FakeCuda, device: CudaDevice) -> None:
    source, target = device.allocate(2, "a test"), device.allocate(2, "a test")
    put(fake, target, [0, 0])
    graph = device.capture(lambda: device.copy(target, source, 2))
    assert graph is not None
    for values in ([1, 2], [3, 4]):
        assert fake.memory[target].tolist() != values
        put(fake, source, values)
        graph.launch()
        assert fake.memory[target].tolist() == values
    graph.close()
    graph.close()
    assert fake.called.count("cuGraphExecDestroy") == 1


@pytest.mark.parametrize("function", ["cuMemcpyAsync", "cuStreamEndCapture"])
def test_what_cannot_be_captured_gives_no_graph_and_the_stream_works_on(function: str) -> None:
    fake = FakeCuda(failures={function: CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED})
    device = open_device(fake)
    memory = device.allocate(2, "a test")
    assert device.capture(lambda: device.copy(memory, memory + 1, 1)) is None
    assert fake.called.count("cuStreamEndCapture") == 1
    fake.failures.clear()
    fake._capture = None
    device.copy(memory, memory + 1, 1)


def test_memory_that_is_given_back_within_a_capture_goes_after_it(fake: FakeCuda, device: CudaDevice) -> None:
    memory, pinned = device.allocate(2, "a test"), device.allocate_pinned(2)

    def collected() -> None:
        device.free(memory)
        device.free_pinned(pinned)
        assert len(fake.memory) == 2

    assert device.capture(collected) is not None
    assert fake.memory == {}


def test_memory_that_runs_out_is_said_with_numbers_and_a_cure(fake: FakeCuda, device: CudaDevice) -> None:
    fake.failures["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(
        MemoryBudgetError,
        match=r"no memory left for one layer's cache \(4.0 MiB; 3.0 MiB are free\): .*smaller --max-context",
    ):
        device.allocate(4 << 20, "one layer's cache")


def test_a_failure_of_the_gpu_is_said_in_the_drivers_words(fake: FakeCuda, device: CudaDevice) -> None:
    fake.failures["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(
        BackendError, match=r"cuStreamSynchronize failed: the text of 700 \(CUDA_ERROR_ILLEGAL_ADDRESS\)"
    ):
        device.synchronize()


def test_without_a_gpu_or_with_another_number_it_is_said_which_there_are() -> None:
    with pytest.raises(
        BackendError, match="the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"
    ):
        open_device(FakeCuda(devices=0))
    with pytest.raises(BackendError, match="the NVIDIA driver finds no GPU"):
        open_device(FakeCuda(failures={"cuInit": CUresult.CUDA_ERROR_NO_DEVICE}))
    with pytest.raises(BackendError, match="there is no GPU 2: the driver finds 2, from 0 on"):
        open_device(FakeCuda(devices=2), 2)


def test_without_the_driver_or_its_python_package_the_cure_is_named() -> None:
    class NoLibrary(FakeCuda):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"libcuda.so.1 is not there ({name})")

    def missing(*_: str, **__: str) -> ModuleType:
        raise MissingExtraError("cuda", "tensorrt-rtx")

    with pytest.raises(BackendError, match=r"no NVIDIA driver \(libcuda.so.1 is not there"):
        open_device(NoLibrary())
    with pytest.raises(
        MissingExtraError, match=r"'cuda-bindings'.*neo-edge\[tensorrt-rtx\].*\"cuda-bindings<13\""
    ):
        CudaDriver("tensorrt-rtx", missing)


def test_it_is_known_which_memory_is_the_devices(fake: FakeCuda) -> None:
    first, second = open_device(FakeCuda(devices=2), 0), open_device(fake)
    memory = second.allocate(8, "a test")
    assert second.holds(memory + 3)
    assert not second.holds(8)
    assert not first.holds(memory)
    second.wait_for_others()
    assert fake.called[-1] == "cuCtxSynchronize"


def test_closing_gives_the_stream_and_the_context_back_once(fake: FakeCuda, device: CudaDevice) -> None:
    memory = device.allocate(2, "a test")
    device.close()
    device.close()
    assert fake.called.count("cuStreamDestroy") == fake.called.count("cuDevicePrimaryCtxRelease") == 1
    device.free(memory)
    assert "cuMemFree" not in fake.called


def used_names() -> Iterator[tuple[str, int | None]]:
    """CUDA's names in the backend's code, and with how many arguments a function is called."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                if node.func.attr == "call" and isinstance(named, str):
                    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
                    yield named, None if starred else len(node.args) - 1
                elif node.func.attr.startswith("nvrtc") and node.func.attr != "nvrtcResult":
                    yield node.func.attr, len(node.args)
            elif isinstance(node, ast.Attribute) and node.attr.startswith(("CU", "cu", "nvrtc")):
                yield node.attr, None


def test_every_name_of_cuda_is_in_both_cuda_bindings_with_as_many_arguments() -> None:
    """`cuda_interface.json` was read from cuda-bindings 12.9 and 13.5, which agree in all that is used."""
    known = {name for members in INTERFACE["members"].values() for name in members} | {*INTERFACE["members"]}
    found = list(used_names())
    assert len(found) > 40
    for name, arguments in found:
        if name in INTERFACE["functions"]:
            assert arguments in (None, len(INTERFACE["functions"][name])), name
        elif name not in ("cuda", "cudart"):
            assert name in known, name


@pytest.mark.parametrize("compute_capability", ["80", "86", "87", "89", "90", "110", "120"])
def test_the_programs_compile_for_every_gpu_that_engines_are_for(compute_capability: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    try:
        image = compile_kernels(compute_capability)
    except BackendError as error:
        pytest.skip(str(error))
    assert image.startswith(b"\x7fELF")
    assert b"append" in image
    assert b"likeliest" in image
    assert b"candidates" in image
    assert b"narrow" in image
    assert b"pack" in image


def test_the_fake_has_the_real_packages_functions_only() -> None:
    ours = {name.removeprefix("do_") for name in vars(FakeCuda) if name.startswith("do_")}
    assert ours <= INTERFACE["functions"].keys()
