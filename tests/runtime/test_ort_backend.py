"""Real bundles of the tiny checkpoint in ONNX Runtime: numbers, memory in place, errors."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_golden import CASES, GOLDEN, TOKENS, append_text, read_golden, tolerance_of, worst

from neo_edge.bundle import open_bundle
from neo_edge.errors import BackendError, BundleError, InputError, MemoryBudgetError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.protocols import get_protocol
from neo_edge_runtime import Model, Session, kv_cache, load, ort_backend, ort_decoder
from neo_edge_runtime.backend import DecoderInputs
from neo_edge_runtime.golden import read_golden as read_case
from neo_edge_runtime.heap import trim_heap
from neo_edge_runtime.kv_cache import HostCache
from neo_edge_runtime.ort_backend import OrtBackend, runnable_variants
from neo_edge_runtime.ort_decoder import OrtDecoderState
from neo_edge_runtime.parity import replay

VARIANTS = ("fp32", "fp32-portable", "fp16", "fp16-portable")


@pytest.fixture(scope="module")
def backends(tiny_bundle: Path) -> Iterator[dict[str, OrtBackend]]:
    bundle = open_bundle(tiny_bundle)
    backends = {name: OrtBackend(bundle, name, threads=1) for name in VARIANTS}
    yield backends
    for backend in backends.values():
        backend.close()


@pytest.fixture(params=VARIANTS)
def backend(request: pytest.FixtureRequest, backends: dict[str, OrtBackend]) -> OrtBackend:
    return backends[request.param]


def state_of(session: Session) -> OrtDecoderState:
    state = session.lend_state()
    assert isinstance(state, OrtDecoderState)
    return state


def cache_of(session: Session) -> HostCache:
    return state_of(session).cache


def addresses(session: Session) -> list[int]:
    cache = cache_of(session)
    return [array.ctypes.data for array in [*cache.keys, *cache.values]]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_golden_files_are_met_whole_and_in_chunks_after_rewind_and_fork(
    backend: OrtBackend, case: str, chunked: bool
) -> None:
    golden = read_case(GOLDEN / f"{case}.npz", backend.traits.config)
    found = replay(backend, TOKENS, golden, chunked=chunked)
    print(f"{case}, chunked={chunked}: {found}")
    assert found.within(tolerance_of(backend))
    assert found.positions == 0
    assert found.worst > 0


def test_decoding_writes_into_the_same_caches_step_after_step_and_grows_once(backend: OrtBackend) -> None:
    session = Session(backend)
    append_text(session, [5] * 64)  # gets 128 positions
    append_text(session, [5] * 58)
    before = addresses(session)
    key = cache_of(session).keys[0]
    for token in range(6):
        session.decode(token)
        assert addresses(session) == before
        assert np.abs(key[0, :, session.length - 1]).max() > 0
        assert not key[0, :, session.length :].any(), "only the next position is written"
    assert (session.length, session.capacity) == (128, 128)
    session.decode(1)
    grown = addresses(session)
    assert session.capacity == 256
    assert grown != before
    for token in range(20):
        session.decode(token)
    assert addresses(session) == grown
    assert session.capacity == 256
    # The whole sequence at once gives the same logits.
    whole = Session(backend)
    append_text(whole, [*[5] * 122, *range(6), 1, *range(19)])
    assert worst(session_repeats(session), whole.decode(19)) <= tolerance_of(backend)


def session_repeats(session: Session) -> np.ndarray:
    session.rewind(session.checkpoint_at(session.length - 1))
    return session.decode(19)


def test_decode_steps_bind_nothing(backend: OrtBackend) -> None:
    session = Session(backend)
    append_text(session, [5] * 10)
    session.decode(1)
    binding = state_of(session)._step
    assert binding is not None
    for token in range(5):
        session.decode(token)
        assert state_of(session)._step is binding


def test_a_session_on_any_cut_of_a_text_is_the_same_session(backend: OrtBackend) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 40).tolist()
    whole = Session(backend)
    expected = append_text(whole, ids)
    pieces = Session(backend, chunk_tokens=9)
    append_text(pieces, ids[:13])
    for token in ids[13:20]:
        pieces.decode(token)
    found = append_text(pieces, ids[20:])
    assert worst(found, expected) <= tolerance_of(backend)


def test_logits_that_a_caller_holds_do_not_change_with_the_next_step(backend: OrtBackend) -> None:
    session = Session(backend)
    first = append_text(session, [1, 2, 3])
    kept = first.copy()
    second = session.decode(4)
    kept_second = second.copy()
    session.decode(5)
    assert np.array_equal(first, kept)
    assert np.array_equal(second, kept_second)


def test_two_sequences_in_one_batch_are_the_two_alone(backend: OrtBackend) -> None:
    texts = np.random.default_rng(1).integers(0, 300, (2, 6))
    state = backend.new_state(batch=2, capacity=16)
    # The second sequence has four tokens; its last two places are padding that nobody sees.
    lengths = np.array([6, 4])
    visible = np.minimum(np.arange(1, 7)[None], lengths[:, None]).astype(np.int32)
    inputs = DecoderInputs(
        inputs_embeds=backend.token_embedding[texts],
        position_ids=np.stack([np.arange(6), np.zeros(6), np.zeros(6)])[None].repeat(2, 0).astype(np.int32),
        visible_length=visible,
        write_index=np.zeros(2, np.int32),
        logits_index=(lengths - 1)[:, None].astype(np.int32),
    )
    prefilled = state.run(inputs).copy()
    step = DecoderInputs(
        inputs_embeds=backend.token_embedding[np.array([[7], [8]])],
        position_ids=np.array([[[6], [0], [0]], [[4], [0], [0]]], np.int32),
        visible_length=np.array([[7], [5]], np.int32),
        write_index=lengths.astype(np.int32),
        logits_index=np.zeros((2, 1), np.int32),
    )
    decoded = state.run(step)
    for row, token in enumerate((7, 8)):
        alone = Session(backend)
        expected = append_text(alone, texts[row, : lengths[row]].tolist())
        assert worst(prefilled[row], expected) <= tolerance_of(backend)
        assert worst(decoded[row, 0], alone.decode(token)) <= tolerance_of(backend)


def test_greedy_answers_are_upstreams_through_the_public_face(tiny_bundle: Path) -> None:
    golden = read_golden("multi_image")
    as_they_are = replace(get_protocol("edge"), name="as they are", min_pixels=1024)
    for variant in VARIANTS:
        with load(tiny_bundle, variant=variant, threads=1, protocol=as_they_are) as model:
            answer = model.generate(
                golden["input_ids"],
                [golden["image_0"], golden["image_1"]],
                options=SamplingOptions(max_new_tokens=5),
            )
        assert answer.token_ids == tuple(golden["generate_tokens"].tolist())


def test_the_embedding_table_is_mapped_and_read_only(backend: OrtBackend) -> None:
    table = backend.token_embedding
    assert table.shape == (320, 64)
    assert not table.flags.writeable
    assert isinstance(table.base, np.memmap)


def test_threads_are_set_and_operators_run_one_after_another(tiny_bundle: Path) -> None:
    import onnxruntime

    bundle = open_bundle(tiny_bundle)
    options = OrtBackend(bundle, "fp32", threads=3)._decoder.session.get_session_options()  # type: ignore[union-attr]
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert OrtBackend(bundle, "fp32").threads >= 1
    with pytest.raises(InputError, match="threads is 0"):
        OrtBackend(bundle, "fp32", threads=0)


def test_an_old_onnxruntime_runs_the_portable_variants_only(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    bundle = open_bundle(tiny_bundle)
    assert runnable_variants(bundle) == list(bundle.manifest.variants)
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    assert runnable_variants(bundle) == ["fp32-portable", "fp16-portable"]
    with pytest.raises(BackendError, match=r"needs onnxruntime >= 1\.25; 1\.23\.2 is installed.*portable"):
        OrtBackend(bundle, "fp32")
    with load(tiny_bundle, threads=1) as model:
        assert isinstance(model, Model)


def test_an_unknown_variant_is_refused_with_the_names_there_are(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="fp32-portable"):
        load(tiny_bundle, variant="int3")


def test_weights_larger_than_the_free_memory_are_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_backend, "available_memory_bytes", lambda: 1000)
    with pytest.raises(MemoryBudgetError, match="weights"):
        load(tiny_bundle)


def test_a_broken_graph_is_a_typed_error(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    graph = copy / "fp32" / "decoder.onnx"
    size = graph.stat().st_size
    graph.write_bytes(b"\xff" * size)
    with pytest.raises(BackendError, match=r"cannot load fp32/decoder\.onnx.*neo-edge verify"):
        load(copy, threads=1)


def test_inputs_that_the_graph_refuses_are_a_typed_error(backend: OrtBackend) -> None:
    state = backend.new_state(batch=1, capacity=8)
    inputs = DecoderInputs(
        inputs_embeds=np.zeros((1, 4, 63), backend.traits.embedding_dtype),
        position_ids=np.zeros((1, 3, 4), np.int32),
        visible_length=np.ones((1, 4), np.int32),
        write_index=np.zeros(1, np.int32),
        logits_index=np.zeros((1, 1), np.int32),
    )
    with pytest.raises(BackendError, match="decoder graph failed on 4 tokens"):
        state.run(inputs)


def test_a_closed_model_refuses(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1)
    backend, session = model._backend, model.session()
    append_text(session, [1, 2])
    model.close()
    with pytest.raises(SessionClosedError, match="load the bundle again"):
        session.decode(1)
    session.close()
    with pytest.raises(SessionClosedError):
        backend.new_state(batch=1, capacity=8)
    with pytest.raises(SessionClosedError):
        backend.encode_patches(np.zeros((4, 768), np.float32), np.zeros((4, 2), np.int32))


def anonymous_bytes() -> int:
    fields = Path("/proc/self/smaps_rollup").read_text().split("Anonymous:")
    return int(fields[1].split()[0]) * 1024


def prefill_scratch_left(backend: OrtBackend, tokens: int) -> int:
    """Anonymous memory that a prefill leaves behind when its session is closed."""
    gc.collect()
    trim_heap()  # of what earlier models left, which would be used again and not counted
    before = anonymous_bytes()
    with Session(backend) as session:
        append_text(session, [1] * tokens)
    gc.collect()
    return anonymous_bytes() - before


@pytest.mark.skipif(sys.platform != "linux", reason="reads smaps_rollup")
def test_the_scratch_of_a_prefill_stays_for_the_next_one_until_it_is_released(tiny_bundle: Path) -> None:
    # 4 heads of 1,400 tokens: scores of 30 MiB, and the tiny model's activations beside them.
    backend = OrtBackend(open_bundle(tiny_bundle), "fp32", threads=1)
    prefill_scratch_left(backend, 8)
    assert prefill_scratch_left(backend, 1400) > 20 * 2**20
    before = anonymous_bytes()
    backend.release_scratch()
    assert before - anonymous_bytes() > 20 * 2**20
    backend.close()
    with pytest.raises(SessionClosedError):
        backend.release_scratch()


@pytest.mark.skipif(sys.platform != "linux", reason="reads smaps_rollup")
def test_scratch_goes_back_at_once_where_memory_is_limited_or_it_is_large(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(tiny_bundle)
    limited = OrtBackend(bundle, "fp32", threads=1, keep_scratch=False)
    keeping = OrtBackend(bundle, "fp32", threads=1)
    monkeypatch.setattr(ort_decoder, "_KEPT_SCORES_BYTES", 5 * 2**20)
    for backend in (limited, keeping):
        prefill_scratch_left(backend, 8)
        assert prefill_scratch_left(backend, 1400) < 10 * 2**20


def test_a_closed_sessions_pages_go_back_to_the_system(backend: OrtBackend) -> None:
    session = Session(backend)
    append_text(session, [1] * 10)
    array = cache_of(session).keys[0]
    pages = array.base
    while isinstance(pages, np.ndarray):
        pages = pages.base
    mapped = pages.obj if isinstance(pages, memoryview) else pages
    session.close()
    with pytest.raises(BufferError):
        mapped.close()
    del array, pages
    mapped.close()


def test_a_cache_that_the_system_cannot_give_is_refused_and_nothing_changes(
    backend: OrtBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(backend)
    append_text(session, [5] * 64)  # gets 128 positions
    append_text(session, [5] * 64)
    expected = session.fork().decode(3)
    calls = []

    def refusing(_: int, size: int) -> object:
        calls.append(size)
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(kv_cache.mmap, "mmap", refusing)
        with pytest.raises(MemoryBudgetError, match="the system refused"):
            session.decode(3)
    assert len(calls) == 1
    assert (session.length, session.capacity) == (128, 128)
    assert np.array_equal(session.decode(3), expected)


def test_threads_that_share_a_model_get_the_answers_they_would_get_alone(tiny_bundle: Path) -> None:
    options = SamplingOptions(max_new_tokens=20)
    prompts = [[index + 1, index + 2, index + 3] for index in range(8)]
    with load(tiny_bundle, threads=1) as model:
        alone = [model.generate(prompt, options=options).token_ids for prompt in prompts]
        with ThreadPoolExecutor(4) as pool:
            together = list(
                pool.map(lambda prompt: model.generate(prompt, options=options).token_ids, prompts)
            )
    assert together == alone
    assert len(set(alone)) == len(alone)
