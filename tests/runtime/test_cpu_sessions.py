"""Whole models on kernels of our own: answers, streams, live sessions, threads, memory and the end of it all."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from cpu_machine import NO_KERNELS, write_copying_compiler
from decoder_cases import text
from kernel_decoders import embeddings, row_errors
from live_sequences import live_logits, random_picture
from tiny_golden import append_text

import neo_edge
from neo_edge.bundle import Bundle
from neo_edge.errors import MemoryBudgetError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge.patch_grid import PatchGrid
from neo_edge.positions import layout
from neo_edge_calibration.evaluation import ask, scene_questions
from neo_edge_calibration.scenes import FAMILIES
from neo_edge_runtime import Model, Session
from neo_edge_runtime.heap import trim_heap
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.prepacked_build import PrepackedMode

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS)

VARIANTS = ("int8-dynamic", "int4")
TWENTY = SamplingOptions(max_new_tokens=20)


@pytest.fixture(scope="module", autouse=True)
def _cache(kernel_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this file's own, and a compiler that gives what was compiled before."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEO_EDGE_CACHE_DIR", str(folder / "cache"))
        patch.setenv("CXX", str(write_copying_compiler(folder, kernel_library)))
        yield


def load(
    bundle: Bundle, variant: str, mode: PrepackedMode = "build", memory_limit_bytes: int | None = None
) -> Model:
    return neo_edge.load(
        bundle.root, variant=variant, threads=2, prepacked=mode, memory_limit_bytes=memory_limit_bytes
    )


def backend_of(model: Model) -> OrtBackend:
    return cast("OrtBackend", model._backend)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, quantized_nano: Bundle) -> Iterator[Model]:
    with load(quantized_nano, request.param) as model:
        assert backend_of(model).kernels in ("AMX", "AVX-512 VNNI")
        yield model


@pytest.fixture(scope="module", params=VARIANTS)
def models(request: pytest.FixtureRequest, quantized_nano: Bundle) -> Iterator[tuple[Model, Model]]:
    """On kernels of our own, and on ONNX Runtime's."""
    with load(quantized_nano, request.param) as ours, load(quantized_nano, request.param, "off") as theirs:
        assert backend_of(theirs).kernels == "ONNX Runtime"
        yield ours, theirs


def test_nearly_all_answers_about_scenes_are_those_of_onnxruntime(models: tuple[Model, Model]) -> None:
    questions = list(scene_questions(list(FAMILIES), 11, 3))
    ours, theirs = ([ask(model, question) for question in questions] for model in models)
    assert len(questions) >= 30
    assert sum(one == other for one, other in zip(ours, theirs, strict=True)) >= 0.9 * len(questions)


def test_a_live_session_drops_frames_as_onnxruntimes_does(models: tuple[Model, Model]) -> None:
    found = []
    for model in models:
        random = np.random.default_rng(4)
        with model.watch(max_frames=3, every=None, policy="drop") as live:
            for number in range(8):
                assert live.add(random_picture(random), 0.5 * number) == "used"
            found.append(live_logits(live, "where?", [], [7, 8, 9]))
            assert live.stats().frames_in_window == 3
    errors = row_errors([found[0]], [found[1]])
    assert np.mean(errors) <= 0.1
    # What dropping does to the cache moves them further than that.
    random = np.random.default_rng(4)
    pictures = [random_picture(random) for _ in range(8)]
    with models[0].watch(max_frames=3, every=None, policy="drop") as live:
        for number, picture in enumerate(reversed(pictures)):
            live.add(picture, 0.5 * number)
        others = live_logits(live, "where?", [], [7, 8, 9])
    assert np.mean(row_errors([others], [found[1]])) > 2 * np.mean(errors)


def test_a_stream_gives_the_answer_in_pieces_and_may_be_cancelled(model: Model) -> None:
    whole = model.generate("What is this?", options=TWENTY)
    stream = model.stream("What is this?", options=TWENTY)
    assert "".join(stream) == whole.text
    assert stream.completion.token_ids == whole.token_ids
    cancelled = model.stream("What is this?", options=SamplingOptions(max_new_tokens=200))
    next(cancelled)
    cancelled.cancel()
    list(cancelled)
    assert cancelled.completion.stop_reason == "cancelled"
    assert model.generate("What is this?", options=TWENTY).token_ids == whole.token_ids


def test_threads_that_share_a_model_get_the_answers_they_would_get_alone(model: Model) -> None:
    prompts = [[5 + index, 6 + index, *range(9, 9 + 7 * index)] for index in range(8)]
    alone = [model.generate(prompt, options=TWENTY).token_ids for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda prompt: model.generate(prompt, options=TWENTY).token_ids, prompts))
    assert together == alone


def test_a_conversation_forks_and_rewinds(model: Model) -> None:
    session = model.session()
    append_text(session, [*range(20, 60)])
    point, fork = session.checkpoint, session.fork()
    first = [session.decode(token) for token in (1, 2, 3)]
    assert np.array_equal(fork.decode(1), first[0])
    session.rewind(point)
    assert all(
        np.array_equal(session.decode(token), logits) for token, logits in zip((1, 2, 3), first, strict=True)
    )


def test_logits_that_are_no_numbers_close_the_session_as_with_onnxruntime(
    models: tuple[Model, Model],
) -> None:
    for model in models:
        backend = backend_of(model)
        tokens = model.tokens
        ids = [5, tokens.img_start, *[tokens.img_context] * 4, tokens.img_end, 7]
        visual = np.zeros((4, backend.token_embedding.shape[1]), np.float32)
        visual[2, 3] = np.nan
        session = model.session()
        with pytest.raises(SessionClosedError, match="not finite"):
            session.prefill(np.array(ids), layout(ids, [PatchGrid(4, 4)], tokens), visual)
        with pytest.raises(SessionClosedError):
            session.decode(1)
        assert model.generate("a", options=TWENTY).token_ids


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_closed_model_refuses_its_sessions_and_ends_its_threads(quantized_nano: Bundle) -> None:
    gc.collect()
    before = threads_of_this_process()
    model = load(quantized_nano, "int4")
    session = model.session()
    append_text(session, [1, 2])
    assert threads_of_this_process() > before
    stream = model.stream("What is this?", options=TWENTY)
    next(stream)
    model.close()
    with pytest.raises(SessionClosedError):
        session.decode(1)
    with pytest.raises(SessionClosedError):
        list(stream)
    with pytest.raises(SessionClosedError):
        model.generate("a")
    session.close()
    del stream, session, model
    gc.collect()
    assert threads_of_this_process() <= before


def answer_until_closed(model: Model, begun: threading.Event) -> str:
    try:
        while True:
            model.generate([*range(5, 300)], options=TWENTY)
            begun.set()
    except SessionClosedError as error:
        return str(error)


def test_closing_a_model_while_other_threads_compute_does_no_harm(quantized_nano: Bundle) -> None:
    for _ in range(3):
        model, begun = load(quantized_nano, "int8-dynamic"), threading.Event()
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(answer_until_closed, model, begun) for _ in range(2)]
            assert begun.wait(120)
            model.close()
            assert all("closed" in one.result(120) for one in running)


def anonymous_bytes() -> int:
    gc.collect()
    trim_heap()
    fields = Path("/proc/self/smaps_rollup").read_text().split("Anonymous:")
    return int(fields[1].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads smaps_rollup")
def test_the_scratch_of_a_prefill_stays_until_it_is_released_or_memory_is_limited(
    quantized_nano: Bundle,
) -> None:
    def left(model: Model) -> int:
        with Session(backend_of(model), chunk_tokens=2000) as session:
            append_text(session, [1] * 8)
        before = anonymous_bytes()
        with Session(backend_of(model), chunk_tokens=2000) as session:
            append_text(session, [1] * 2000)
        return anonymous_bytes() - before

    with load(quantized_nano, "int8-dynamic") as model:
        assert left(model) > 10 * 2**20
        before = anonymous_bytes()
        backend_of(model).release_scratch()
        assert before - anonymous_bytes() > 10 * 2**20
        answer = model.generate("a", options=TWENTY).token_ids
    with load(quantized_nano, "int8-dynamic", memory_limit_bytes=200 * 2**20) as model:
        assert left(model) < 2 * 2**20
        assert model.generate("a", options=TWENTY).token_ids == answer
    with (
        load(quantized_nano, "int8-dynamic", memory_limit_bytes=2**20) as model,
        pytest.raises(MemoryBudgetError),
    ):
        model.generate([1] * 2000)


def test_a_decoder_lives_as_long_as_a_state_that_uses_it(quantized_nano: Bundle) -> None:
    before = threads_of_this_process()
    model = load(quantized_nano, "int4")
    state = backend_of(model).new_state(batch=1, capacity=8)
    inputs = text(embeddings(quantized_nano), [1, 2, 3])
    expected = state.run(inputs)
    model.close()
    del model
    gc.collect()
    assert np.array_equal(state.run(inputs), expected)
    assert threads_of_this_process() > before
    del state
    gc.collect()
    assert threads_of_this_process() <= before
