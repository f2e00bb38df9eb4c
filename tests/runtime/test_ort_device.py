"""The backend for GPUs on host memory that stands in for a GPU's, and what it says where there is no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import numpy as np
import onnxruntime
import pytest
from ort_host_device import OrtHostDevice
from tiny_golden import CASES, GOLDEN, TOKENS, append_text, tolerance_of, worst

from neo_edge.bundle import open_bundle
from neo_edge.errors import BackendError, MemoryBudgetError, SessionClosedError
from neo_edge_runtime import Model, Session
from neo_edge_runtime.golden import read_golden
from neo_edge_runtime.kv_cache import HostCache
from neo_edge_runtime.nvidia_devices import NvidiaDevice, NvidiaDriver
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.ort_device import CUDA_PROVIDER, CudaDevice
from neo_edge_runtime.ort_device_backend import OrtDeviceBackend, open_on_device
from neo_edge_runtime.ort_device_cache import DeviceMemory, scatter_indices
from neo_edge_runtime.ort_device_decoder import DeviceDecoderState, one_token
from neo_edge_runtime.ort_placement import strays
from neo_edge_runtime.parity import replay

VARIANTS = ("fp32", "fp32-portable", "fp16", "fp16-portable")
H100 = NvidiaDriver("580.10", "13.0", (NvidiaDevice("H100", 80 << 30, "9.0"),))


@dataclass(frozen=True)
class IdleDevice(OrtHostDevice):
    """A provider that every wheel has and that runs no operator of ours, as CUDA's runs none that it lacks."""

    provider: str = "AzureExecutionProvider"
    options: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def backends(tiny_bundle: Path) -> Iterator[dict[str, OrtDeviceBackend]]:
    bundle = open_bundle(tiny_bundle)
    backends = {name: OrtDeviceBackend(bundle, name, device=OrtHostDevice()) for name in VARIANTS}
    yield backends
    for backend in backends.values():
        backend.close()


@pytest.fixture(params=VARIANTS)
def backend(request: pytest.FixtureRequest, backends: dict[str, OrtDeviceBackend]) -> OrtDeviceBackend:
    return backends[request.param]


def addresses(session: Session) -> list[int]:
    assert isinstance(session.lend_state(), DeviceDecoderState)
    return [tensor.value.data_ptr() for tensor in session.lend_state().cache.tensors]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_golden_files_are_met_whole_and_in_chunks_after_rewind_and_fork(
    backend: OrtDeviceBackend, case: str, chunked: bool
) -> None:
    golden = read_golden(GOLDEN / f"{case}.npz", backend.traits.config)
    found = replay(backend, TOKENS, golden, chunked=chunked)
    assert found.within(tolerance_of(backend))
    assert found.positions == 0
    assert found.worst > 0


@pytest.mark.parametrize("variant", ["fp32", "fp32-portable"])
def test_answers_are_those_of_the_cpu_backend(tiny_bundle: Path, variant: str) -> None:
    bundle = open_bundle(tiny_bundle)
    ours, usual = (
        OrtDeviceBackend(bundle, variant, device=OrtHostDevice()),
        OrtBackend(bundle, variant, threads=1),
    )
    tokens = bundle.manifest.special_tokens
    with Model(ours, tokens=tokens) as model, Model(usual, tokens=tokens) as reference:
        asked = [5, 6, 7, 8, 9]
        assert model.generate(asked).token_ids == reference.generate(asked).token_ids
        mine, theirs = Session(ours), Session(usual)
        assert worst(append_text(mine, asked), append_text(theirs, asked)) < 1e-4
        for token in range(5):
            assert worst(mine.decode(token), theirs.decode(token)) < 1e-4


def test_decoding_keeps_the_caches_in_place_and_binds_nothing_until_they_grow(
    backend: OrtDeviceBackend,
) -> None:
    session = Session(backend)
    append_text(session, [5] * 64)  # gets 128 positions
    append_text(session, [5] * 58)
    session.decode(0)
    assert isinstance(session.lend_state(), DeviceDecoderState)
    before, step = addresses(session), session.lend_state()._step
    for token in range(5):
        session.decode(token)
        assert addresses(session) == before
        assert session.lend_state()._step is step
    assert (session.length, session.capacity) == (128, 128)
    grown = session.decode(1)
    assert session.capacity == 256
    assert addresses(session) != before
    whole = Session(backend)
    assert worst(append_text(whole, [*[5] * 122, 0, *range(5), 1])[0], grown) <= tolerance_of(backend)


def test_a_fork_and_its_origin_go_separate_ways(backend: OrtDeviceBackend) -> None:
    origin = Session(backend)
    append_text(origin, [5, 6, 7])
    fork = origin.fork()
    forked = fork.decode(8)
    origin.decode(9)
    again = Session(backend)
    append_text(again, [5, 6, 7])
    assert worst(forked, again.decode(8)) <= tolerance_of(backend)


def test_a_row_is_copied_to_another_place_of_a_batch(backend: OrtDeviceBackend) -> None:
    source = backend.new_state(batch=1, capacity=16)
    target = backend.new_state(batch=3, capacity=32)
    assert isinstance(source, DeviceDecoderState)
    assert isinstance(target, DeviceDecoderState)
    for number, tensor in enumerate(source.cache.tensors):
        tensor.fill(np.random.default_rng(number).random(tensor.shape).astype(tensor.dtype))
    target.copy_row(1, source, 0, length=9)
    for mine, theirs in zip(target.cache.tensors, source.cache.tensors, strict=True):
        found = mine.value.numpy()
        assert np.array_equal(found[1, :, :9], theirs.value.numpy()[0, :, :9])
        assert not found[1, :, 9:].any()
        assert not found[[0, 2]].any()


def test_positions_move_over_others_in_every_sequence(backend: OrtDeviceBackend) -> None:
    state = backend.new_state(batch=2, capacity=8)
    assert isinstance(state, DeviceDecoderState)
    before = []
    for number, tensor in enumerate(state.cache.tensors):
        before.append(np.random.default_rng(number).random(tensor.shape).astype(tensor.dtype))
        tensor.fill(before[-1])
    state.move(np.array([6, 7]), np.array([1, 3]))
    for tensor, numbers in zip(state.cache.tensors, before, strict=True):
        numbers[:, :, [1, 3]] = numbers[:, :, [6, 7]]
        assert np.array_equal(tensor.value.numpy(), numbers)


def test_keys_turn_as_those_in_host_memory(backend: OrtDeviceBackend) -> None:
    state, config = backend.new_state(batch=1, capacity=8), backend.traits.config.decoder
    assert isinstance(state, DeviceDecoderState)
    host = HostCache(config, batch=1, capacity=8, dtype=state.cache.dtype)
    for number, (tensor, array) in enumerate(zip(state.cache.keys, host.keys, strict=True)):
        array[...] = np.random.default_rng(number).random(array.shape)
        tensor.fill(array)
    state.shift_t(-5, length=6)
    host.shift_t(-5, length=6)
    for tensor, array in zip(state.cache.keys, host.keys, strict=True):
        assert np.array_equal(tensor.value.numpy(), array)


def test_growing_may_keep_the_first_sequences_only(backend: OrtDeviceBackend) -> None:
    state = backend.new_state(batch=3, capacity=4)
    assert isinstance(state, DeviceDecoderState)
    kept = []
    for number, tensor in enumerate(state.cache.tensors):
        numbers = np.random.default_rng(number).random(tensor.shape).astype(tensor.dtype)
        tensor.fill(numbers)
        kept.append(numbers[:2, :, :3])
    state.grow(8, length=3, rows=2)
    assert state.capacity == 8
    for tensor, numbers in zip(state.cache.tensors, kept, strict=True):
        assert np.array_equal(tensor.value.numpy()[:, :, :3], numbers)
        assert not tensor.value.numpy()[:, :, 3:].any()


def test_a_run_of_fewer_sequences_leaves_the_others_alone(backend: OrtDeviceBackend) -> None:
    state = backend.new_state(batch=2, capacity=4)
    assert isinstance(state, DeviceDecoderState)
    assert backend._decoder is not None
    logits = state.run(one_token(backend._decoder))
    assert logits.shape[0] == 1
    for tensor in state.cache.tensors:
        written = tensor.value.numpy()
        assert not written[1].any()
        assert not written[0, :, 1:].any()


def test_scratch_goes_back_and_a_closed_backend_says_so(tiny_bundle: Path) -> None:
    backend = OrtDeviceBackend(open_bundle(tiny_bundle), "fp32", device=OrtHostDevice())
    backend.release_scratch()
    backend.close()
    for use in (
        lambda: backend.token_embedding,
        lambda: backend.new_state(batch=1, capacity=1),
        backend.release_scratch,
    ):
        with pytest.raises(SessionClosedError, match="the model is closed"):
            use()


def test_the_probe_is_no_file_that_stays(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    OrtDeviceBackend(open_bundle(tiny_bundle), "fp32", device=OrtHostDevice()).close()
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_lacks_operators_is_refused_with_their_names(tiny_bundle: Path) -> None:
    with pytest.raises(
        BackendError, match=r"AzureExecutionProvider of onnxruntime .* lacks .*copy between each step: use a"
    ):
        OrtDeviceBackend(open_bundle(tiny_bundle), "fp32", device=IdleDevice())


def test_a_bundle_of_which_no_variant_runs_says_why_for_each(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError) as caught:
        open_on_device(open_bundle(tiny_bundle), None, device=IdleDevice())
    assert all(f"{name}: " in str(caught.value) for name in VARIANTS)


def test_the_first_variant_that_runs_is_taken(tiny_bundle: Path) -> None:
    backend, name = open_on_device(open_bundle(tiny_bundle), None, device=OrtHostDevice())
    assert name == "fp32"
    backend.close()


def test_a_session_that_fell_back_to_the_cpu_is_refused(tiny_bundle: Path) -> None:
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendError, match="could not start CUDAExecutionProvider and fell back.*cuDNN 9"),
    ):
        OrtDeviceBackend(open_bundle(tiny_bundle), "fp32", device=OrtHostDevice(provider=CUDA_PROVIDER))


def runtime(
    version: str = "1.26.0", cuda: str = "12.8", providers: tuple[str, ...] = (CUDA_PROVIDER,)
) -> ModuleType:
    found = SimpleNamespace(
        __version__=version, cuda_version=cuda, get_available_providers=lambda: list(providers)
    )
    return cast("ModuleType", found)


@pytest.mark.parametrize(
    ("ort", "driver", "message"),
    [
        (
            runtime(providers=("CPUExecutionProvider",)),
            H100,
            r"has no CUDAExecutionProvider .*neo-edge\[gpu\]",
        ),
        (runtime(), "no NVIDIA driver (x is not there)", "no NVIDIA driver .*install NVIDIA's driver"),
        (runtime(), NvidiaDriver("1", "13.0", ()), "shows 0 GPUs.*CUDA_VISIBLE_DEVICES"),
        (
            runtime("1.32.0", "13.0"),
            NvidiaDriver("550.54", "12.4", H100.devices),
            r"built for CUDA 13 and the driver 550.54 runs CUDA up to 12.4: update the driver",
        ),
    ],
)
def test_what_keeps_cuda_from_running_is_said_before_anything_loads(
    ort: ModuleType, driver: NvidiaDriver | str, message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        CudaDevice(driver=lambda: driver).require(ort)


def test_a_gpu_that_fits_passes_and_computes_in_whole_float32() -> None:
    device = CudaDevice(driver=lambda: H100)
    device.require(runtime())
    assert device.options["use_tf32"] == "0"
    assert device.arena == "gpu:0"


def test_arithmetic_of_shapes_may_run_on_the_cpu_and_nothing_else(tmp_path: Path) -> None:
    def event(name: str, provider: str, outputs: list[dict[str, list[int]]]) -> dict[str, object]:
        about = {"op_name": name, "provider": provider, "output_type_shape": outputs}
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": about}

    cpu = "CPUExecutionProvider"
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            [
                {"cat": "Session", "name": "model_run", "args": {}},
                event("Range", cpu, [{"int64": [256]}]),
                event("Less", cpu, [{"bool": [64, 1024]}]),
                event("MatMul", CUDA_PROVIDER, [{"float": [1, 4096]}]),
                event("Cast", cpu, [{"float16": [1]}]),
                event("Cast", cpu, [{"float16": [1]}]),
                event("Attention", cpu, []),
            ]
        )
    )
    assert strays(profile, CUDA_PROVIDER) == ["Less", "Cast", "Attention"]


def test_no_room_on_the_device_is_a_memory_error_and_the_rest_a_backend_error(
    backends: dict[str, OrtDeviceBackend],
) -> None:
    decoder = backends["fp32"]._decoder
    assert decoder is not None
    full = decoder.failed("a run", RuntimeError("BFCArena: Failed to allocate memory for requested buffer"))
    assert isinstance(full, MemoryBudgetError)
    assert "cpu:0 has no room for a run" in str(full)
    assert isinstance(decoder.failed("a run", RuntimeError("CUDNN failure 4")), BackendError)


def test_a_shape_that_the_graph_refuses_is_a_backend_error(backends: dict[str, OrtDeviceBackend]) -> None:
    backend = backends["fp32"]
    assert backend._decoder is not None
    state = backend.new_state(batch=1, capacity=1)
    inputs = one_token(backend._decoder)
    inputs.write_index[:] = 5
    inputs.visible_length[:] = 6
    with pytest.raises(BackendError, match=r"a run of 1 tokens at \[5\] of 1 failed on cpu:0"):
        state.run(inputs)


def test_tokens_scatter_to_their_sequence_head_and_position() -> None:
    places = scatter_indices(np.array([3, 0], np.int32), 2, heads=2)
    assert places.shape == (2, 2, 2, 3)
    assert places[0, 1].tolist() == [[0, 1, 3], [0, 1, 4]]
    assert places[1, 0].tolist() == [[1, 0, 0], [1, 0, 1]]


def test_new_memory_holds_zeros() -> None:
    memory = DeviceMemory(cast("ModuleType", onnxruntime), OrtHostDevice())
    for dtype in (np.float32, np.float16):
        assert not memory.zeros((2, 3, 4, 5), np.dtype(dtype)).value.numpy().any()
