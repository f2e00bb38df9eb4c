from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy_backend import NumpyBackend

from neo_edge.checkpoint_presets import preset_config
from neo_edge.config import ModelConfig, parse_config
from neo_edge.errors import InputError, MemoryBudgetError
from neo_edge_runtime import memory
from neo_edge_runtime.backend import BackendTraits
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.memory import (
    MemoryBudget,
    MemoryNeed,
    available_memory_bytes,
    peak_memory_bytes,
    prefill_need,
    vision_need,
)

MIB = 2**20


def model_2b() -> ModelConfig:
    return parse_config(preset_config("2b"))


def traits(element_bytes: int = 4, *, score_buffers: int = 1, widens_cache: bool = False) -> BackendTraits:
    return BackendTraits(
        config=model_2b(),
        embedding_dtype=np.dtype(np.float32 if element_bytes == 4 else np.float16),
        cache_element_bytes=element_bytes,
        score_buffers=score_buffers,
        widens_cache=widens_cache,
    )


def test_a_token_of_the_2b_costs_245760_bytes_of_half_precision_cache() -> None:
    assert cache_bytes(model_2b().decoder, batch=1, capacity=1, element_bytes=2) == 245_760
    assert cache_bytes(model_2b().decoder, batch=2, capacity=256, element_bytes=4) == 2 * 256 * 2 * 245_760


def test_an_image_of_4096_tokens_needs_over_a_gib_of_attention_scores() -> None:
    need = prefill_need(traits(), chunks=[(4096, 4096)], new_tokens=4096, logits_rows=1)
    # 16 heads x 4,096 x 4,096 x 4 bytes are 1 GiB; the new tokens' own columns and the mask come on top.
    assert 1024 * MIB <= need.attention_scores <= 2.2 * 1024 * MIB
    assert need.kv_cache == 4096 * 2 * 245_760
    assert need.logits == 2 * 151936 * 4
    assert need.embeddings == 2 * 4096 * 2048 * 4
    assert need.total == sum(vars(need).values())


def test_scores_count_per_buffer_and_only_the_largest_chunk() -> None:
    one = prefill_need(traits(), chunks=[(100, 256), (10, 256)], new_tokens=110, logits_rows=1)
    three = prefill_need(traits(score_buffers=3), chunks=[(100, 256)], new_tokens=110, logits_rows=1)
    assert one.attention_scores == 17 * 100 * 356 * 4
    assert three.attention_scores == 49 * 100 * 356 * 4


def test_the_additive_mask_of_the_portable_profile_is_counted_for_each_query_head_of_a_key_head() -> None:
    portable = replace(traits(), mask_buffers=16 // 8)
    plain, added = (
        prefill_need(one, chunks=[(1024, 2048)], new_tokens=1024, logits_rows=1)
        for one in (traits(), portable)
    )
    assert added.attention_scores - plain.attention_scores == 1024 * (2048 + 1024) * 4


def test_a_cache_that_is_there_already_is_not_counted_again() -> None:
    need = prefill_need(traits(), chunks=[(5, 512)], new_tokens=5, logits_rows=1, held_capacity=512)
    assert need.kv_cache == 0
    grown = prefill_need(traits(), chunks=[(5, 512)], new_tokens=5, logits_rows=1, held_capacity=256)
    assert grown.kv_cache == 256 * 2 * 245_760


def test_logits_of_every_position_are_counted() -> None:
    need = prefill_need(traits(), chunks=[(320, 512)], new_tokens=320, logits_rows=320, kept_rows=320)
    assert need.logits == 640 * 151936 * 4


def test_a_half_precision_cache_that_is_widened_counts_one_layer_more() -> None:
    plain = prefill_need(traits(2), chunks=[(1, 4096)], new_tokens=1, logits_rows=1)
    widened = prefill_need(traits(2, widens_cache=True), chunks=[(1, 4096)], new_tokens=1, logits_rows=1)
    assert widened.attention_scores - plain.attention_scores == 4096 * 8 * 384 * 4


def test_vision_counts_pixels_hidden_states_and_tokens() -> None:
    need = vision_need(traits(), patches=4096, visual_tokens=1024)
    assert need.patches == 4096 * (768 + 4 * 1024) * 4
    assert need.embeddings == 1024 * 2048 * 4


def test_a_need_beyond_the_limit_is_refused_with_the_numbers() -> None:
    budget = MemoryBudget(100 * MIB)
    budget.require(MemoryNeed(kv_cache=100 * MIB), "a prompt")
    budget.hold(30 * MIB)
    need = MemoryNeed(kv_cache=60 * MIB, attention_scores=11 * MIB)
    with pytest.raises(
        MemoryBudgetError,
        match=r"a prompt needs 71\.0 MiB \(kv cache 60\.0 MiB, attention scores 11\.0 MiB\) beside 30\.0 MiB "
        r"that open sessions hold; memory_limit_bytes allows 100\.0 MiB: .*max_pixels",
    ):
        budget.require(need, "a prompt")
    budget.hold(-30 * MIB)
    budget.require(need, "a prompt")


def test_what_is_reserved_for_one_is_not_there_for_another_until_its_block_ends() -> None:
    budget = MemoryBudget(100 * MIB)
    with budget.reserve(MemoryNeed(kv_cache=40 * MIB, activations=20 * MIB), "a prompt") as reservation:
        budget.hold(40 * MIB, reservation)
        assert (budget.held_bytes, budget.reserved_bytes) == (40 * MIB, 20 * MIB)
        with pytest.raises(
            MemoryBudgetError,
            match=r"beside 40\.0 MiB that open sessions hold and 20\.0 MiB that other runs may take; memory_limit",
        ):
            budget.require(MemoryNeed(kv_cache=41 * MIB), "another")
        budget.require(MemoryNeed(kv_cache=40 * MIB), "another")
    assert (budget.held_bytes, budget.reserved_bytes) == (40 * MIB, 0)
    budget.require(MemoryNeed(kv_cache=60 * MIB), "another")


def test_a_run_that_fails_gives_its_reservation_back() -> None:
    budget = MemoryBudget(100 * MIB)
    with (
        pytest.raises(ValueError, match="a failure"),
        budget.reserve(MemoryNeed(kv_cache=60 * MIB), "a prompt"),
    ):
        raise ValueError("a failure")
    assert (budget.held_bytes, budget.reserved_bytes) == (0, 0)


def test_free_memory_is_promised_once() -> None:
    free = available_memory_bytes()
    assert free is not None
    budget = MemoryBudget()
    most = MemoryNeed(kv_cache=free * 3 // 4)
    with budget.reserve(most, "a prompt"), pytest.raises(MemoryBudgetError, match="other runs may take and"):
        budget.require(most, "another")


def test_of_threads_that_ask_at_once_only_as_many_are_admitted_as_fit() -> None:
    threads, rounds, fit = 8, 20, 3
    budget = MemoryBudget(fit * MIB)
    at_once = threading.Barrier(threads)
    admitted: list[int] = []

    def ask(turn: int) -> None:
        at_once.wait(300)
        try:
            with budget.reserve(MemoryNeed(kv_cache=MIB), "a prompt") as reservation:
                budget.hold(MIB, reservation)
                admitted.append(turn)
                at_once.wait(300)  # all have asked by now
                budget.hold(-MIB)
        except MemoryBudgetError:
            at_once.wait(300)

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(rounds):
            workers = [threading.Thread(target=ask, args=(turn,)) for _ in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(300)
    finally:
        sys.setswitchinterval(switching)
    assert Counter(admitted) == dict.fromkeys(range(rounds), fit)
    assert (budget.held_bytes, budget.reserved_bytes) == (0, 0)


def test_a_need_beyond_the_free_memory_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="are free"):
        MemoryBudget().require(MemoryNeed(kv_cache=2**60), "a prompt")


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="memory_limit_bytes is 0"):
        MemoryBudget(0)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_free_memory_is_the_least_of_the_machines_and_every_groups_room(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "meminfo", "MemTotal:  1000000 kB\nMemAvailable:   500000 kB\n")
    assert available_memory_bytes(proc, cgroup) == 500000 * 1024
    write(proc / "self" / "cgroup", "0::/robot/vision\n")
    write(cgroup / "robot" / "vision" / "memory.max", "max\n")
    write(cgroup / "robot" / "vision" / "memory.current", "77\n")
    assert available_memory_bytes(proc, cgroup) == 500000 * 1024
    write(cgroup / "robot" / "memory.max", "1000000\n")
    write(cgroup / "robot" / "memory.current", "900000\n")
    write(cgroup / "robot" / "memory.stat", "anon 5\ninactive_file 50000\n")
    assert available_memory_bytes(proc, cgroup) == 150_000


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "self" / "cgroup", "9:name=systemd:/\n4:cpu,memory:/box\n")
    write(cgroup / "memory" / "box" / "memory.limit_in_bytes", "5000")
    write(cgroup / "memory" / "box" / "memory.usage_in_bytes", "6000")
    assert available_memory_bytes(proc, cgroup) == 0


def test_a_system_that_says_nothing_refuses_nothing(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path, tmp_path) is None


def test_this_machine_says_both_numbers() -> None:
    free, peak = available_memory_bytes(), peak_memory_bytes()
    assert free is not None
    assert free > 0
    assert peak is not None
    assert peak > 10 * MIB


def test_the_fake_needs_what_its_arrays_take(backend: NumpyBackend) -> None:
    state = backend.new_state(batch=1, capacity=256)
    counted = cache_bytes(backend.config.decoder, batch=1, capacity=256, element_bytes=8)
    assert counted == state.keys.nbytes + state.values.nbytes


def test_memory_that_can_be_reclaimed_is_reclaimed_before_a_prompt_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms, reclaimed = [50 * MIB], []
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: rooms[-1])

    def reclaim() -> None:
        reclaimed.append(rooms[-1])
        rooms.append(100 * MIB)

    budget = MemoryBudget(reclaim=reclaim)
    budget.require(MemoryNeed(kv_cache=50 * MIB), "a prompt")
    assert not reclaimed
    budget.require(MemoryNeed(kv_cache=100 * MIB), "a prompt")
    assert reclaimed == [50 * MIB]
    with pytest.raises(MemoryBudgetError, match=r"a prompt needs 100\.0 MiB .* and 100\.0 MiB are free"):
        budget.require(MemoryNeed(kv_cache=100 * MIB + 1), "a prompt")
