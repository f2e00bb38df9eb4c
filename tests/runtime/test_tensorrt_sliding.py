"""Caches on the device from which the oldest frames are dropped in place."""

from __future__ import annotations

import numpy as np
import pytest
from tensorrt_bundle import Fakes
from tiny_golden import TOKENS, append_text, worst

from neo_edge.bundle import Bundle
from neo_edge.errors import BackendError
from neo_edge.tokenizer import Tokenizer
from neo_edge_runtime import Model, Session
from neo_edge_runtime.backend import SlidingState
from neo_edge_runtime.ort_backend import OrtBackend
from neo_edge_runtime.parity import TOLERANCE


@pytest.mark.parametrize("variant", ["fp32-portable", "fp16-portable"])
def test_positions_that_moved_and_keys_that_turned_give_the_hosts_logits(
    engine_bundle: Bundle, variant: str
) -> None:
    backends = Fakes(engine_bundle).open(variant), OrtBackend(engine_bundle, variant, threads=1)
    found = []
    for backend in backends:
        session = Session(backend)
        append_text(session, np.random.default_rng(0).integers(0, 300, 40).tolist())
        logits = [session.decode(token) for token in (1, 2)]
        state = session.lend_state()
        assert isinstance(state, SlidingState)
        state.move(np.array([30, 31, 32, 38, 39, 35]), np.array([4, 5, 6, 7, 8, 20]))
        state.shift_t(-9, length=33)
        logits += [session.decode(token) for token in (3, 4, 5)]
        found.append(np.stack(logits))
        session.close()
        backend.close()
    assert worst(*found) < TOLERANCE[variant[:4]]
    assert np.abs(found[0][2] - found[0][1]).max() > 0.01, "dropping changes what follows"


def test_moving_nothing_changes_nothing(engine_bundle: Bundle) -> None:
    fakes = Fakes(engine_bundle)
    backend = fakes.open("fp32-portable")
    state = backend.new_state(batch=1, capacity=16)
    queued = fakes.device.queued
    state.move(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert fakes.device.queued == queued
    backend.close()


def test_without_programs_of_our_own_turning_is_refused_with_the_cure(engine_bundle: Bundle) -> None:
    backend = Fakes(engine_bundle, has_kernels=False).open("fp32-portable")
    state = backend.new_state(batch=1, capacity=16)
    with pytest.raises(BackendError, match=r'NVRTC is not there: .*policy="recompute"'):
        state.shift_t(1, length=4)
    backend.close()


def test_without_them_watching_is_refused_before_the_first_frame(
    engine_bundle: Bundle, tokenizer: Tokenizer
) -> None:
    backend = Fakes(engine_bundle, has_kernels=False).open("fp32-portable")
    with Model(backend, tokens=TOKENS, tokenizer=tokenizer) as model:
        with pytest.raises(BackendError, match=r'NVRTC is not there: .*policy="recompute"'):
            model.watch()
        with model.watch(policy="recompute") as live:
            assert live.stats().frames_seen == 0
