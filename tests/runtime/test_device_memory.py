"""What is refused before anything runs, where the memory and the shapes are a device's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ort_host_device import OrtHostDevice
from tensorrt_bundle import LIMITS, Fakes
from tiny_golden import TOKENS, append_text, text_layout

from neo_edge.bundle import open_bundle
from neo_edge.errors import ImageError, MemoryBudgetError, SessionClosedError
from neo_edge.options import SamplingOptions
from neo_edge_runtime import Model, Request, Session
from neo_edge_runtime.cuda_memory import free_cuda_bytes
from neo_edge_runtime.kv_cache import cache_bytes
from neo_edge_runtime.memory import MemoryBudget, MemoryNeed, prefill_need, vision_need
from neo_edge_runtime.ort_device_backend import OrtDeviceBackend

FEW = SamplingOptions(max_new_tokens=3)
IDS = [5, 6, 7, 8, 9]


@pytest.fixture
def model(fakes: Fakes) -> Iterator[Model]:
    with Model(fakes.open(), tokens=TOKENS, max_pixels=1 << 20) as model:
        yield model


def test_what_the_gpu_lacks_is_refused_before_a_run_and_kept_buffers_go_back_first(
    fakes: Fakes, model: Model
) -> None:
    expected = model.generate(IDS, options=FEW).token_ids
    runs, kept = fakes.engines[1].runs, len(fakes.device.allocated["device"])
    free, fakes.device.free_memory = fakes.device.free_memory, 1000
    with pytest.raises(
        MemoryBudgetError,
        match=r"appending 5 tokens to 0 needs .*kv cache .*new keys and values .* MiB are free on the GPU: ",
    ) as caught:
        model.generate(IDS, options=FEW)
    assert "attention scores" not in str(caught.value), "scratch was taken with the engines"
    assert fakes.engines[1].runs == runs
    assert len(fakes.device.allocated["device"]) < kept
    fakes.device.free_memory = free
    assert model.generate(IDS, options=FEW).token_ids == expected


def test_free_memory_of_a_closed_model_is_not_asked_for(fakes: Fakes) -> None:
    backend = fakes.open()
    session = Session(backend)
    backend.close()
    with pytest.raises(SessionClosedError, match="the model is closed"):
        session.preflight(text_layout(session, IDS))


def test_of_a_run_on_engines_only_what_is_taken_for_it_counts(fakes: Fakes) -> None:
    backend = fakes.open()
    traits = backend.traits
    need = prefill_need(traits, chunks=[(100, 256), (20, 256)], new_tokens=120, logits_rows=1)
    decoder = traits.config.decoder
    assert (need.attention_scores, need.activations) == (0, 0)
    assert need.new_keys_and_values == cache_bytes(decoder, batch=1, capacity=100, element_bytes=4)
    whole = prefill_need(
        replace(traits, holds_scratch=False, gives_new_rows=False),
        chunks=[(100, 256)],
        new_tokens=120,
        logits_rows=1,
    )
    assert whole.activations > 0
    assert whole.new_keys_and_values == 0
    pixels = traits.config.vision.patch_dim * 4
    assert vision_need(traits, patches=8, visual_tokens=0).patches == 8 * pixels
    backend.close()


@dataclass(frozen=True)
class FullDevice(OrtHostDevice):
    """Has a kilobyte."""

    def free_bytes(self) -> int | None:
        return 1024


def test_onnx_runtime_on_a_device_asks_it_too(tiny_bundle: Path) -> None:
    backend = OrtDeviceBackend(open_bundle(tiny_bundle), "fp32-portable", device=FullDevice())
    with pytest.raises(MemoryBudgetError, match=r"appending 5 tokens to 0 needs .* free on the GPU: "):
        append_text(Session(backend), IDS)
    backend.close()


def test_a_device_that_says_nothing_refuses_nothing() -> None:
    MemoryBudget(free_device_bytes=lambda: None).require(MemoryNeed(kv_cache=1 << 60), "a prompt")


def test_while_memory_is_reclaimed_another_thread_may_close_a_session() -> None:
    """A backend waits for the run under way, in which the collector may close a session of the same budget."""

    def reclaim() -> None:
        closing = threading.Thread(target=lambda: budget.hold(-1))
        closing.start()
        closing.join(300)
        assert not closing.is_alive()

    budget = MemoryBudget(reclaim=reclaim, free_device_bytes=lambda: 10)
    with pytest.raises(MemoryBudgetError, match="free on the GPU"):
        budget.require(MemoryNeed(kv_cache=11), "a prompt")
    assert budget.held_bytes == -1


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_beyond_a_chunk_is_refused_before_anything_runs(fakes: Fakes, model: Model) -> None:
    asked = [5, TOKENS.img_start, TOKENS.img_context, TOKENS.img_end, 6]
    with pytest.raises(
        ImageError,
        match=r"a picture gives 768 visual tokens and stays whole; the engines take 512 tokens at once: pass "
        r"max_pixels=524288, or build engines with --max-chunk 768",
    ):
        model.generate(asked, [picture(1024, 768)], options=FEW)
    assert [engine.runs for engine in fakes.engines] == [0, 0]
    with Model(Fakes(fakes.bundle).open(), tokens=TOKENS, max_pixels=524288) as smaller:
        assert len(smaller.generate(asked, [picture(1024, 768)], options=FEW).token_ids) == 3


def test_no_more_answers_are_made_together_than_the_engines_take(fakes: Fakes, model: Model) -> None:
    prompts = [[5, 6, 7 + number] for number in range(5)]
    expected = [model.generate(prompt, options=FEW).token_ids for prompt in prompts]
    found = model.generate_batch([Request(prompt) for prompt in prompts], options=FEW)
    assert [answer.token_ids for answer in found] == expected
    assert LIMITS.max_batch == 3 < len(prompts)
    assert fakes.device.launches > 0


class FakeCuda:
    """The functions of libcuda that are asked, each as successful as its status."""

    def __init__(self, **statuses: int) -> None:
        self.statuses, self.called = statuses, list[str]()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 5 << 30, 8 << 30
            return self.statuses.get(name, 0)

        return call


def test_free_memory_is_the_cuda_drivers_own_number() -> None:
    cuda = FakeCuda()
    assert free_cuda_bytes(0, cuda) == 5 << 30
    assert cuda.called[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]


@pytest.mark.parametrize(
    ("function", "releases"),
    [
        ("cuInit", False),
        ("cuDeviceGet", False),
        ("cuDevicePrimaryCtxRetain", False),
        ("cuCtxPushCurrent_v2", True),
        ("cuMemGetInfo_v2", True),
    ],
)
def test_a_driver_that_refuses_gives_no_number(function: str, releases: bool) -> None:
    cuda = FakeCuda(**{function: 100})
    assert free_cuda_bytes(0, cuda) is None
    assert ("cuDevicePrimaryCtxRelease_v2" in cuda.called) == releases
