"""What a device could do at best, counted on a device in host memory."""

from __future__ import annotations

import numpy as np
import pytest
from host_device import HostDevice
from numpy_backend import NumpyBackend
from test_bench import PLAN, FakeBuffer, FakeClock, TimedBackend, report
from tiny_golden import GOLDEN

from neo_edge.errors import MemoryBudgetError
from neo_edge.tokenizer import resolve_special_tokens
from neo_edge_runtime.bench.measuring import Figures, GpuMeters, measure
from neo_edge_runtime.bench.roofline import DeviceCopies, UnknownBandwidth, prefill_operations
from neo_edge_runtime.nvidia_devices import used_device_bytes


def test_copies_count_what_is_read_and_what_is_written_and_go_back() -> None:
    device = HostDevice(memory_bytes=4096)
    copies = DeviceCopies(device, 1024)
    (name,) = copies.readers
    assert name == "copies on the host, read and written"
    copies.readers[name]()
    assert copies.bandwidth({name: np.array([1.0, 2.0])})[name].tolist() == [8 * 1024, 4 * 1024]
    assert device.free_memory == 4096 - 2 * 1024
    copies.close()
    assert device.free_memory == 4096


def test_copies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="no memory left for measuring copies"):
        DeviceCopies(HostDevice(memory_bytes=1500), 1024)


def test_an_unknown_bandwidth_has_no_reader() -> None:
    assert UnknownBandwidth().bandwidth({}) == {}
    assert not UnknownBandwidth().readers


def test_a_prefill_s_operations_are_two_a_weight_and_two_a_pair_of_numbers() -> None:
    config = NumpyBackend(GOLDEN).config
    decoder = config.decoder
    queries, keys = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    hidden = decoder.hidden_size
    layer = hidden * (2 * queries + 2 * keys + keys + queries + 3 * decoder.intermediate_size)
    pairs = decoder.num_heads * 3 * decoder.head_dim
    head = hidden * decoder.vocab_size
    assert prefill_operations(config, 1, 0) == 2 * (decoder.num_layers * (layer + pairs) + head)
    more = prefill_operations(config, 4, 10)
    assert more == 2 * (decoder.num_layers * (4 * layer + (11 + 12 + 13 + 14) * pairs) + head)


def run_on_gpu(rate: float | None, used: list[int]) -> Figures:
    clock, left = FakeClock(), iter(used)
    backend = TimedBackend(clock)
    return measure(
        backend,
        resolve_special_tokens(None, backend.config),
        PLAN,
        weight_bytes=1_000_000,
        takes_images=False,
        threads=1,
        buffer=lambda: FakeBuffer(clock),
        clock=clock,
        gpu=GpuMeters(used_before=1000, used_bytes=lambda: next(left), matrix_rate=lambda: rate),
    )


def test_peak_device_memory_is_the_most_behind_a_run_beyond_what_was_there() -> None:
    found = run_on_gpu(None, [1000, 1000 + 3 * 2**30, 2000, 1500, 1500, 1500])
    assert found.peak_device_bytes == 3 * 2**30
    assert "peak device memory 3 GiB, of all programs since the start" in "\n".join(report(found).lines())
    assert "matrix rate" not in "\n".join(report(found).lines())


def test_prefills_have_their_share_of_the_matrix_rate() -> None:
    found = run_on_gpu(1e9, [1000] * 6)
    row = found.rows[0]
    assert row.operations == prefill_operations(NumpyBackend(GOLDEN).config, 8, 0)
    share = row.operations / row.seconds[0] / 1e9
    lines = list(report(found).lines())
    cells = next(line for line in lines if line.startswith("| pp8 ")).split("|")
    assert cells[5].strip() == f"{share:.3f} ± 0.000"
    assert "large matrix products: 0.0 TFLOP/s" in lines
    assert report(found).to_json()["matrix_operations_per_second"] == 1e9


def test_without_a_reader_decoding_has_no_share() -> None:
    clock = FakeClock()
    backend = TimedBackend(clock)
    tokens = resolve_special_tokens(None, backend.config)
    found = measure(
        backend,
        tokens,
        PLAN,
        weight_bytes=1_000_000,
        takes_images=False,
        threads=1,
        buffer=UnknownBandwidth,
        clock=clock,
    )
    assert [row.share for row in found.rows] == [None] * 6
    assert found.bandwidth == {}


def test_without_a_driver_no_memory_is_in_use() -> None:
    assert used_device_bytes("no-such-library.so") is None
