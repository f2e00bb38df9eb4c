"""The TensorRT backend's numbers and control flow, over engines that compute with ONNX Runtime in a fake GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from host_device import HostDevice
from tensorrt_bundle import Fakes
from tiny_golden import CASES, GOLDEN, TOKENS, append_text, worst

from neo_edge.bundle import Bundle
from neo_edge.errors import ContextOverflowError, MemoryBudgetError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.positions import layout
from neo_edge.protocols import get_protocol
from neo_edge_runtime import Model, Session
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.golden import read_golden
from neo_edge_runtime.memory import MemoryBudget
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.parity import TOLERANCE, replay
from neo_edge_runtime.tensorrt.backend import TensorRtBackend
from neo_edge_runtime.tensorrt.state import TrtDecoderState

WITHIN = TOLERANCE["fp32"]


@pytest.fixture(scope="module")
def ort(engine_bundle: Bundle) -> Iterator[OrtBackend]:
    backend = OrtBackend(engine_bundle, "fp32-portable", threads=1)
    yield backend
    backend.close()


@pytest.fixture
def backend(fakes: Fakes) -> Iterator[TensorRtBackend]:
    backend = fakes.open("fp32-portable")
    yield backend
    backend.close()
    assert fakes.device.allocated == {"device": {}, "host": {}}, "everything is given back"
    assert fakes.device.closed
    assert all(engine.closed for engine in fakes.engines)


def state_of(session: Session) -> TrtDecoderState:
    state = session.lend_state()
    assert isinstance(state, TrtDecoderState)
    return state


def text_inputs(
    backend: TensorRtBackend | OrtBackend, texts: list[list[int]], starts: list[int]
) -> DecoderInputs:
    """Texts behind `starts` tokens each; shorter ones are padded with tokens that nobody sees."""
    size = max(map(len, texts))
    padded = np.array([text + [0] * (size - len(text)) for text in texts])
    lengths, first = np.array([len(text) for text in texts]), np.array(starts)[:, None]
    places = first + np.minimum(np.arange(size)[None], lengths[:, None] - 1)
    positions = np.zeros((len(texts), 3, size), np.int32)
    positions[:, 0] = places
    return DecoderInputs(
        inputs_embeds=backend.token_embedding[padded],
        position_ids=positions,
        visible_length=(places + 1).astype(np.int32),
        write_index=np.array(starts, np.int32),
        logits_index=(lengths - 1)[:, None].astype(np.int32),
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", ["fp32-portable", "fp16-portable"])
def test_golden_files_are_met_whole_and_in_chunks_after_rewind_and_fork(
    fakes: Fakes, variant: str, case: str, chunked: bool
) -> None:
    backend = fakes.open(variant)
    found = replay(
        backend, TOKENS, read_golden(GOLDEN / f"{case}.npz", backend.traits.config), chunked=chunked
    )
    assert found.within(TOLERANCE[variant[:4]])
    assert found.worst > 0
    assert fakes.device.launches > 0, "decode steps were replayed"
    backend.close()


def test_logits_are_those_of_onnx_runtime_in_every_order_of_calls(
    backend: TensorRtBackend, ort: OrtBackend
) -> None:
    text = np.random.default_rng(0).integers(0, 300, 378).tolist()
    ours, theirs = Session(backend, chunk_tokens=100), Session(ort)

    def both(tokens: list[int]) -> None:
        assert worst(append_text(ours, tokens), append_text(theirs, tokens)) < WITHIN
        for token in (5, 6, 7, 8):
            assert worst(ours.decode(token), theirs.decode(token)) < WITHIN

    both(text[:250])
    assert ours.capacity == 384
    both(text[250:])  # whose decode steps go beyond
    assert ours.capacity == 768
    for session in (ours, theirs):
        session.rewind(session.checkpoint_at(120))
    both(text[:7])
    forks = ours.fork(), theirs.fork()
    both(text[:3])
    ours, theirs = forks
    both(text[7:20])


def test_all_logits_of_a_long_prefill_come_in_more_runs_than_one(
    fakes: Fakes, backend: TensorRtBackend, ort: OrtBackend
) -> None:
    text = np.random.default_rng(1).integers(0, 300, 40)
    found, expected = (
        Session(each).prefill(text, layout(text, [], TOKENS), all_logits=True) for each in (backend, ort)
    )
    assert worst(found, expected) < WITHIN
    assert fakes.engines[1].runs == 3, "40 rows in runs of 16"


def test_sequences_of_different_lengths_run_together_and_leave(
    backend: TensorRtBackend, ort: OrtBackend
) -> None:
    texts = [
        np.random.default_rng(seed).integers(0, 300, size).tolist() for seed, size in enumerate((9, 4, 6))
    ]
    ours, theirs = (each.new_state(batch=3, capacity=256) for each in (backend, ort))
    for each, state in ((backend, ours), (ort, theirs)):
        state.run(text_inputs(each, texts, [0, 0, 0]))
    starts = [len(text) for text in texts]
    for rows in (3, 3, 3, 2, 2, 2, 1):
        found, expected = (
            state.run(text_inputs(each, [[row] for row in range(rows)], starts[:rows])).copy()
            for each, state in ((backend, ours), (ort, theirs))
        )
        assert worst(found, expected) < WITHIN
        starts = [start + 1 for start in starts]
    ours.close()


def test_a_row_is_copied_within_and_between_states_and_rows_are_dropped_when_growing(
    backend: TensorRtBackend, ort: OrtBackend
) -> None:
    found = []
    for each in (backend, ort):
        source, target = each.new_state(batch=1, capacity=256), each.new_state(batch=3, capacity=300)
        source.run(text_inputs(each, [[1, 2, 3, 4, 5]], [0]))
        target.copy_row(2, source, 0, length=5)
        target.copy_row(1, target, 2, length=4)
        target.grow(512, length=5, rows=3)
        logits = [target.run(text_inputs(each, [[9], [8], [7]], [0, 4, 5])).copy()]
        target.grow(600, length=6, rows=2)
        logits.append(target.run(text_inputs(each, [[3], [2]], [1, 5])).copy())
        copied = target.copy(length=2, capacity=256)
        logits.append(copied.run(text_inputs(each, [[3], [2]], [2, 2])).copy())
        found.append(logits)
    for ours, theirs in zip(*found, strict=True):
        assert worst(ours, theirs) < WITHIN


def test_fresh_caches_are_zeros_in_memory_that_was_not(backend: TensorRtBackend, fakes: Fakes) -> None:
    state = backend.new_state(batch=1, capacity=256)
    fakes.device.synchronize()
    assert state._cache.tensors
    assert not any(fakes.device.array(tensor).any() for tensor in state._cache.tensors.values())


def test_a_step_is_captured_at_its_second_run_and_again_after_growth_or_another_batch(
    fakes: Fakes, backend: TensorRtBackend
) -> None:
    session = Session(backend)
    append_text(session, [5] * 64)  # gets 128 positions
    append_text(session, [5] * 60)
    replayed = []
    for token in range(8):
        before = fakes.device.launches
        session.decode(token)
        replayed.append(fakes.device.launches - before)
    assert session.capacity == 256
    # At the fifth token the cache grows: addresses and shapes are other ones then.
    assert replayed == [0, 1, 1, 1, 0, 1, 1, 1]


def test_a_replayed_step_is_two_calls_and_brings_back_the_logits_alone(
    fakes: Fakes, backend: TensorRtBackend
) -> None:
    session = Session(backend)
    append_text(session, [1, 2, 3])
    for token in range(3):
        session.decode(token)
    queued, back = fakes.device.queued, fakes.device.copied_back
    session.decode(3)
    assert fakes.device.queued - queued == 1, "the graph"
    rounded = -(-4 * backend.traits.config.decoder.vocab_size // 256) * 256
    assert fakes.device.copied_back - back == rounded


@pytest.mark.parametrize("limits", [{"captures": False}, {"has_kernels": False}])
def test_without_graphs_or_programs_of_our_own_the_numbers_are_the_same(
    engine_bundle: Bundle, ort: OrtBackend, limits: dict[str, bool]
) -> None:
    fakes = Fakes(engine_bundle, **limits)
    with Model(fakes.open("fp32-portable"), tokens=TOKENS) as model:
        ours, theirs = Session(model._backend), Session(ort)
        for session in (ours, theirs):
            append_text(session, [5] * 64)  # gets 128 positions
            append_text(session, [5] * 62)
        for token in range(5):
            assert worst(ours.decode(token), theirs.decode(token)) < WITHIN
        assert not state_of(ours).replays
        state = model._backend.new_state(batch=1, capacity=64)
        assert isinstance(state, TrtDecoderState)
        step = text_inputs(ort, [[1, 2, 3]], [0])
        expected = ort.new_state(batch=1, capacity=64).run(step).argmax(-1)
        assert state.run_likeliest(step).tokens.tolist() == expected.tolist()
    assert fakes.device.launches == 0


def test_the_likeliest_token_is_found_on_the_device_and_little_comes_back(
    fakes: Fakes, backend: TensorRtBackend, ort: OrtBackend
) -> None:
    ours, theirs = backend.new_state(batch=2, capacity=64), ort.new_state(batch=2, capacity=64)
    texts = [[1, 2, 3], [4, 5]]
    back = fakes.device.copied_back
    found = ours.run_likeliest(text_inputs(backend, texts, [0, 0]))
    tokens = theirs.run(text_inputs(ort, texts, [0, 0])).argmax(-1)
    starts = [3, 2]
    for _ in range(4):
        assert found.finite
        assert found.tokens.tolist() == tokens.tolist()
        step = tokens.tolist()
        found = ours.run_likeliest(text_inputs(backend, step, starts))
        tokens = theirs.run(text_inputs(ort, step, starts)).argmax(-1)
        starts = [start + 1 for start in starts]
    assert fakes.device.copied_back - back == 5 * 256
    assert fakes.device.launches == 3


def test_a_conversation_ends_where_the_engines_do(backend: TensorRtBackend) -> None:
    session = Session(backend, chunk_tokens=200)
    append_text(session, [5] * 1022)
    assert session.capacity == backend.limits.max_context == 1024
    session.decode(1)
    session.decode(2)
    with pytest.raises(
        ContextOverflowError,
        match=r"1025 in all; this session holds 1024: .*build engines with --max-context 1025",
    ):
        session.decode(3)
    assert session.length == 1024
    session.rewind(session.checkpoint_at(1020))
    session.decode(4)


def test_chunks_are_no_longer_than_the_engines_take(
    engine_bundle: Bundle, fakes: Fakes, ort: OrtBackend
) -> None:
    backend = fakes.open("fp32-portable")
    session, expected = Session(backend, chunk_tokens=4096), Session(ort)
    assert worst(append_text(session, [5] * 700), append_text(expected, [5] * 700)) < WITHIN
    assert fakes.engines[1].runs == 2, "512 and 188 tokens"
    assert engine_bundle.manifest.engines[backend.engines.key.name].key.limits.max_chunk == 512


def test_two_states_take_turns_without_touching_each_other(backend: TensorRtBackend, ort: OrtBackend) -> None:
    ours, theirs = ([Session(each), Session(each)] for each in (backend, ort))
    for sessions in (ours, theirs):
        append_text(sessions[0], [1, 2, 3])
        append_text(sessions[1], [9, 8, 7, 6])
    for token in range(6):
        for mine, other in zip(ours, theirs, strict=True):
            assert worst(mine.decode(token), other.decode(token)) < WITHIN


@pytest.mark.parametrize(("temperature", "brings_logits"), [(0.0, False), (0.01, True)])
def test_answers_are_upstreams_and_greedy_ones_bring_no_logits_back(
    fakes: Fakes, temperature: float, brings_logits: bool
) -> None:
    golden = np.load(GOLDEN / "multi_image.npz")
    as_they_are = replace(get_protocol("edge"), name="as they are", min_pixels=1024)
    with Model(fakes.open("fp32-portable"), tokens=TOKENS, protocol=as_they_are) as model:
        answer = model.generate(
            golden["input_ids"],
            [golden["image_0"], golden["image_1"]],
            options=SamplingOptions(max_new_tokens=5, temperature=temperature, seed=0),
        )
    assert answer.token_ids == tuple(golden["generate_tokens"].tolist())
    assert fakes.device.launches == 3
    assert fakes.device.allocated == {"device": {}, "host": {}}
    row = -(-4 * model.config.decoder.vocab_size // 256) * 256
    steps, vision = 4, 9 * 64 * 4
    back = fakes.device.copied_back - row - vision
    assert back == steps * (row if brings_logits else 256)


def test_more_patches_than_the_engine_takes_go_in_several_calls(
    backend: TensorRtBackend, ort: OrtBackend, fakes: Fakes
) -> None:
    random = np.random.default_rng(3)
    patches = random.standard_normal((600, 768)).astype(np.float32)
    places = random.integers(0, 30, (600, 2)).astype(np.int32)
    assert worst(backend.encode_patches(patches, places), ort.encode_patches(patches, places)) < WITHIN
    assert fakes.engines[0].runs == 3
    assert backend.encode_patches(patches[:0], places[:0]).shape == (
        0,
        backend.traits.config.decoder.hidden_size,
    )


def test_scratch_comes_back_after_it_was_released(backend: TensorRtBackend, fakes: Fakes) -> None:
    session = Session(backend)
    append_text(session, [1, 2, 3])
    session.decode(4)
    before = fakes.device.free_memory
    backend.release_scratch()
    assert fakes.device.free_memory > before
    session.decode(5)
    append_text(session, [1, 2, 3])


def test_a_cache_that_does_not_fit_changes_nothing(
    backend: TensorRtBackend, fakes: Fakes, ort: OrtBackend
) -> None:
    # The host's memory is asked, where the device's would refuse the request beforehand.
    ours, theirs = Session(backend, budget=MemoryBudget()), Session(ort)
    for session in (ours, theirs):
        append_text(session, [5] * 64)  # gets 128 positions
        append_text(session, [5] * 63)
    free = fakes.device.free_memory
    for left in (0, 100_000):  # at the first tensor, and in the middle of them
        fakes.device.free_memory = left
        with pytest.raises(MemoryBudgetError, match="the GPU has no memory left for one layer's cache"):
            append_text(ours, [1, 2])
        assert ours.length == 127
        assert ours.capacity == 128
    fakes.device.free_memory = free
    assert worst(append_text(ours, [1, 2]), append_text(theirs, [1, 2])) < WITHIN


def test_a_dropped_state_waits_for_no_run_and_is_released_by_the_next(
    backend: TensorRtBackend, fakes: Fakes
) -> None:
    kept, free = backend.new_state(batch=1, capacity=64), fakes.device.free_memory
    dropped = [backend.new_state(batch=1, capacity=64) for _ in range(2)]
    del dropped[0]
    between = fakes.device.free_memory
    assert between < free, "the lock was free: one is gone at once"
    collector = threading.Thread(target=dropped.clear)
    with backend._decoder.alone():
        collector.start()
        collector.join(timeout=300)
        assert not collector.is_alive()
        assert fakes.device.free_memory == between
    kept.grow(100, length=0)
    kept.close()
    assert fakes.device.free_memory > free


def test_a_closed_backend_refuses_and_its_sessions_can_be_closed(fakes: Fakes) -> None:
    backend = fakes.open("fp32-portable")
    session = Session(backend)
    append_text(session, [1, 2, 3])
    backend.close()
    backend.close()
    with pytest.raises(SessionClosedError, match="the model is closed"):
        session.decode(1)
    with pytest.raises(SessionClosedError, match="the model is closed"):
        backend.new_state(batch=1, capacity=16)
    session.close()
    assert isinstance(fakes.device, HostDevice)


@pytest.mark.parametrize("likeliest", [False, True])
def test_a_logit_that_is_not_finite_closes_the_session(
    backend: TensorRtBackend, fakes: Fakes, likeliest: bool
) -> None:
    session = Session(backend)
    append_text(session, [1, 2, 3])
    fakes.device.array(state_of(session)._cache.tensors["value_cache.0"])[...] = np.nan
    with pytest.raises(SessionClosedError, match="a logit that is not finite after 3 tokens"):
        (session.decode_likeliest if likeliest else session.decode)(4)
    with pytest.raises(SessionClosedError):
        session.decode_likeliest(4)
