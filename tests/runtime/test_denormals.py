"""Denormal numbers count as zero while a graph runs, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_golden import append_text

from neo_edge.bundle import open_bundle
from neo_edge_runtime import Session
from neo_edge_runtime.denormals import DenormalsFlushed, FloatEnvironmentKept, flushes_denormals
from neo_edge_runtime.ort_backend import OrtBackend

needs_flushing = pytest.mark.skipif(
    not flushes_denormals, reason="this processor's denormals are not flushed"
)


def denormal_product() -> float:
    """1e-39, which is denormal, by way of numpy's own loop."""
    return float((np.full(64, 1e-30, np.float32) * np.full(64, 1e-9, np.float32))[0])


@needs_flushing
def test_denormals_are_zero_inside_and_numbers_again_outside() -> None:
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)
    with DenormalsFlushed():
        assert denormal_product() == 0.0
        with DenormalsFlushed():
            assert denormal_product() == 0.0
        assert denormal_product() == 0.0
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)
    with pytest.raises(KeyError), DenormalsFlushed():
        raise KeyError
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)


@needs_flushing
def test_a_changed_environment_is_put_back() -> None:
    with FloatEnvironmentKept():
        DenormalsFlushed().__enter__()
        assert denormal_product() == 0.0
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_caller_keeps_its_denormals_when_a_model_is_loaded_and_run(tiny_bundle: Path, threads: int) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), "fp32", threads=threads)
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)
    with Session(backend) as session:
        append_text(session, [1] * 8)
        session.decode(1)
    assert denormal_product() == pytest.approx(1e-39, rel=1e-3)


def test_the_graphs_own_threads_flush(tiny_bundle: Path) -> None:
    backend = OrtBackend(open_bundle(tiny_bundle), "fp32", threads=2)
    assert backend._decoder is not None
    options = backend._decoder.session.get_session_options()
    if flushes_denormals:
        assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.set_denormal_as_zero")
